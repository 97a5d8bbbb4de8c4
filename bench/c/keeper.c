// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// keeper N pipes|null: the way of a port without JavaScript: the runtime sends
// a record with the child's descriptors to a keeper that waits, the keeper
// clones the child from a stack of its own in shared memory, says that it has
// started, waits for its end and says that, too; a thread of the runtime waits
// for those words and wakes the one that asked. N times, one after the other.
// Prints the microseconds of one.
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static char stack[64 * 1024];
static int fds[3];

static int send_fds(int socket, int *theirs) {
  char record[64] = {1};
  union {
    struct cmsghdr align;
    char room[CMSG_SPACE(3 * sizeof(int))];
  } control = {0};
  struct iovec data = {record, sizeof record};
  struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control.room,
                           .msg_controllen = sizeof control.room};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
                             .cmsg_len = CMSG_LEN(3 * sizeof(int))};
  memcpy(CMSG_DATA(header), theirs, 3 * sizeof(int));
  return sendmsg(socket, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static int receive_fds(int socket) {
  char record[64], room[CMSG_SPACE(3 * sizeof(int))];
  struct iovec data = {record, sizeof record};
  struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = room,
                           .msg_controllen = sizeof room};
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) <= 0) return -1;
  memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fds);
  return 0;
}

static int child(void *none) {
  (void)none;
  char *argv[] = {"true", 0};
  setsid();
  for (int i = 0; i < 3; i++) dup2(fds[i], i);
  execve("/bin/true", argv, environ);
  _exit(127);
}

static void keep(int socket) {
  while (receive_fds(socket) == 0) {
    // Without CLONE_VFORK the child must have left the stack before it is used again: it has when it has ended.
    pid_t pid = clone(child, stack + sizeof stack, CLONE_VM | SIGCHLD, 0);
    for (int i = 0; i < 3; i++) close(fds[i]);
    int status = 1;
    if (pid < 0 || send(socket, "s", 1, 0) < 0 || waitpid(pid, &status, 0) != pid) _exit(1);
    if (send(socket, status == 0 ? "d" : "f", 1, 0) < 0) _exit(1);
  }
  _exit(0);
}

static int near, woken;

/** The runtime's thread that waits. */
static void *reactor(void *none) {
  (void)none;
  char word;
  for (;;) {
    struct pollfd waits = {near, POLLIN, 0};
    if (poll(&waits, 1, -1) < 0 || recv(near, &word, 1, 0) <= 0) return 0;
    unsigned long long one = word == 'd' ? 1 : 1000;
    if (word != 's' && write(woken, &one, sizeof one) < 0) return 0;
  }
}

int main(int argc, char **argv) {
  int pair[2];
  if (argc != 3 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) return 2;
  int null = open("/dev/null", O_RDWR | O_CLOEXEC), pipes = strcmp(argv[2], "pipes") == 0;
  if (fork() == 0) {
    close(pair[0]);
    keep(pair[1]);
  }
  close(pair[1]);
  near = pair[0];
  woken = eventfd(0, EFD_CLOEXEC);
  pthread_t thread;
  if (pthread_create(&thread, 0, reactor, 0) != 0) return 1;
  long n = atol(argv[1]);
  struct timespec a, b;
  clock_gettime(CLOCK_MONOTONIC, &a);
  for (long done = 0; done < n; done++) {
    int theirs[3] = {null, null, null}, ours[3];
    for (int i = 0; pipes && i < 3; i++) {
      int ends[2];
      if (pipe2(ends, O_CLOEXEC) < 0) return 1;
      theirs[i] = ends[i != 0];
      ours[i] = ends[i == 0];
      fcntl(ours[i], F_SETFL, O_NONBLOCK);
    }
    if (send_fds(near, theirs) < 0) return 1;
    for (int i = 0; pipes && i < 3; i++) close(theirs[i]);
    unsigned long long count;
    if (read(woken, &count, sizeof count) < 0 || count != 1) return 1;
    for (int i = 0; pipes && i < 3; i++) close(ours[i]);
  }
  clock_gettime(CLOCK_MONOTONIC, &b);
  printf("%f\n", ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / 1e3 / n);
  return 0;
}
