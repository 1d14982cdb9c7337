/* Preloaded into a server of a test: its clock of the day is off by as many milliseconds as the file that CLOCK names
 * holds (eight bytes, signed). The file is mapped, so that a step is seen at once. Clocks that only rise stay right. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *mapped;

__attribute__((constructor)) static void map_it(void) {
  const char *path = getenv("CLOCK");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *at = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(long long), PROT_READ, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) _exit(71);
  mapped = at;
  close(fd);
}

static long long off_us(void) { return mapped ? *mapped * 1000 : 0; }

int gettimeofday(struct timeval *restrict tv, void *restrict tz) {
  int (*real)(struct timeval *, void *) = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
  int result = real(tv, tz);
  if (result == 0) {
    long long us = tv->tv_sec * 1000000LL + tv->tv_usec + off_us();
    tv->tv_sec = us / 1000000;
    tv->tv_usec = us % 1000000;
  }
  return result;
}

int clock_gettime(clockid_t which, struct timespec *ts) {
  int (*real)(clockid_t, struct timespec *) = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(which, ts);
  if (result == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
    long long us = ts->tv_sec * 1000000LL + ts->tv_nsec / 1000 + off_us();
    ts->tv_nsec = (us % 1000000) * 1000 + ts->tv_nsec % 1000;
    ts->tv_sec = us / 1000000;
  }
  return result;
}

time_t time(time_t *out) {
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  if (out) *out = ts.tv_sec;
  return ts.tv_sec;
}
