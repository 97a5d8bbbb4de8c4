// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// Writes 1 GiB to stdout, 128 KiB a call.
#include <unistd.h>

static char block[128 * 1024];

int main(void) {
  for (long left = 1L << 30; left > 0;) {
    size_t size = left < (long)sizeof block ? (size_t)left : sizeof block;
    ssize_t written = write(1, block, size);
    if (written < 0) return 1;
    left -= written;
  }
  return 0;
}
