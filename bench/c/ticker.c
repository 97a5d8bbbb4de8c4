// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// ticker BYTES MS: writes so many bytes to stdout at once, then 100 every MS
// milliseconds, or none where MS is 0, until it is ended.
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static char block[1024];

static int put(long bytes) {
  while (bytes > 0) {
    ssize_t written = write(1, block, bytes < 1024 ? (size_t)bytes : 1024);
    if (written < 0) return -1;
    bytes -= written;
  }
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  long ms = atol(argv[2]);
  struct timespec rest = {ms / 1000, ms % 1000 * 1000000};
  if (put(atol(argv[1])) < 0) return 1;
  while (ms > 0) {
    nanosleep(&rest, 0);
    if (put(100) < 0) return 1;
  }
  for (;;) pause();
}
