// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// Runs the program it is given and reads its stdout to the end, as plainly as
// C can: a pipe of 256 KiB, 128 KiB a call, one buffer. Prints the milliseconds.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char block[128 * 1024];

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

int main(int argc, char **argv) {
  int ends[2];
  if (argc < 2 || pipe2(ends, O_CLOEXEC) < 0) return 1;
  if (fcntl(ends[0], F_SETPIPE_SZ, 256 * 1024) < 0) return 1;
  pid_t pid = fork();
  if (pid < 0) return 1;
  if (pid == 0) {
    dup2(ends[1], 1);
    execv(argv[1], argv + 1);
    _exit(127);
  }
  close(ends[1]);
  double begin = now();
  ssize_t got;
  while ((got = read(ends[0], block, sizeof block)) > 0) continue;
  double ms = now() - begin;
  int status;
  if (got < 0 || waitpid(pid, &status, 0) != pid || status != 0) return 1;
  printf("%f\n", ms);
  return 0;
}
