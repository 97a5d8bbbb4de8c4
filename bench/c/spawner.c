// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// spawner N WIDTH pipes|null [MIB]: starts `true` by posix_spawn(3) N times,
// WIDTH at a time, with three pipes or with /dev/null, and waits for its end;
// with so much memory resident. Prints the microseconds of one.
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static int null;
static int ends[1024][3];

static int start(int slot, int pipes) {
  char *argv[] = {"true", 0};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  int theirs[3] = {null, null, null};
  for (int i = 0; i < 3; i++) {
    int pair[2];
    ends[slot][i] = -1;
    if (pipes) {
      if (pipe2(pair, O_CLOEXEC) < 0) return -1;
      theirs[i] = pair[i != 0];
      ends[slot][i] = pair[i == 0];
    }
    posix_spawn_file_actions_adddup2(&actions, theirs[i], i);
  }
  pid_t pid;
  int error = posix_spawnp(&pid, "true", &actions, 0, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  for (int i = 0; pipes && i < 3; i++) close(theirs[i]);
  return error ? -1 : 0;
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  long n = atol(argv[1]), width = atol(argv[2]);
  int pipes = strcmp(argv[3], "pipes") == 0;
  if (width < 1 || width > 1024) return 2;
  if (argc > 4) {
    size_t bytes = (size_t)atol(argv[4]) << 20;
    char *resident = malloc(bytes);
    if (!resident) return 1;
    memset(resident, 1, bytes);
  }
  null = open("/dev/null", O_RDWR | O_CLOEXEC);
  struct timespec a, b;
  clock_gettime(CLOCK_MONOTONIC, &a);
  for (long done = 0; done < n; done += width) {
    for (int slot = 0; slot < width; slot++)
      if (start(slot, pipes) < 0) return 1;
    for (int slot = 0; slot < width; slot++) {
      int status;
      if (wait(&status) < 0 || status != 0) return 1;
      for (int i = 0; pipes && i < 3; i++) close(ends[slot][i]);
    }
  }
  clock_gettime(CLOCK_MONOTONIC, &b);
  printf("%f\n", ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / 1e3 / n);
  return 0;
}
