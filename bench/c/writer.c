// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// writer BLOCK BYTES: writes so many bytes to stdout, a block a call.
#include <stdlib.h>
#include <unistd.h>

static char block[1024 * 1024];

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  long size = atol(argv[1]);
  if (size < 1 || size > (long)sizeof block) return 2;
  for (long left = atol(argv[2]); left > 0;) {
    ssize_t written = write(1, block, left < size ? (size_t)left : (size_t)size);
    if (written < 0) return 1;
    left -= written;
  }
  return 0;
}
