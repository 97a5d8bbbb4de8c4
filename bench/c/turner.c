// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// turner TURNS: sends cat a line and reads it back, so many times. Prints the
// microseconds of one turn.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
  int in[2], out[2];
  char line[6] = "hello\n";
  if (argc != 2 || pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0) return 2;
  pid_t pid = fork();
  if (pid < 0) return 1;
  if (pid == 0) {
    dup2(in[0], 0);
    dup2(out[1], 1);
    execlp("cat", "cat", (char *)0);
    _exit(127);
  }
  struct timespec a, b;
  long turns = atol(argv[1]);
  for (long n = -100; n < turns; n++) {
    if (n == 0) clock_gettime(CLOCK_MONOTONIC, &a);
    if (write(in[1], line, 6) != 6 || read(out[0], line, 6) != 6) return 1;
  }
  clock_gettime(CLOCK_MONOTONIC, &b);
  printf("%f\n", ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / 1e3 / turns);
  return 0;
}
