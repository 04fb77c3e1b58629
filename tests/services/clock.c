/* A clock that can be stepped, preloaded into the processes that are to have it.
 *
 * What day it is (CLOCK_REALTIME) is moved by the seconds in a shared file, from one reading to the next; monotonic clocks are the
 * kernel's. The kernel itself is not moved: moments of the moved clock that are handed to it as deadlines are moved back, as a
 * kernel whose clock was stepped would do.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* A deadline beyond this many seconds is a day of the calendar, not an uptime. */
#define CALENDAR 1000000000L

static const volatile int64_t zero = 0;
static const volatile int64_t *ahead = &zero;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("STEPPED_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *page = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
  if (page != MAP_FAILED) ahead = page;
  close(file);
}

static long kernel(long number, long a, long b, long c, long d, long e, long f) {
  static long (*true_syscall)(long, ...);
  if (!true_syscall) true_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
  return true_syscall(number, a, b, c, d, e, f);
}

static int moved(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

int clock_gettime(clockid_t clock, struct timespec *at) {
  static int (*true_call)(clockid_t, struct timespec *);
  if (!true_call) true_call = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int result = true_call(clock, at);
  if (result == 0 && moved(clock)) at->tv_sec += *ahead;
  return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}

/* The deadline as the kernel's clock has it. */
static const struct timespec *back(const struct timespec *deadline, struct timespec *room) {
  if (!deadline || deadline->tv_sec < CALENDAR) return deadline;
  *room = *deadline;
  room->tv_sec -= *ahead;
  return room;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict deadline) {
  static int (*true_call)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  struct timespec room;
  if (!true_call)
    true_call = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))dlvsym(
        RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  if (!true_call)
    true_call = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))dlsym(
        RTLD_NEXT, "pthread_cond_timedwait");
  return true_call(cond, mutex, back(deadline, &room));
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict deadline) {
  static int (*true_call)(pthread_mutex_t *, const struct timespec *);
  struct timespec room;
  if (!true_call)
    true_call = (int (*)(pthread_mutex_t *, const struct timespec *))dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
  return true_call(mutex, back(deadline, &room));
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict deadline) {
  static int (*true_call)(sem_t *, const struct timespec *);
  struct timespec room;
  if (!true_call) true_call = (int (*)(sem_t *, const struct timespec *))dlsym(RTLD_NEXT, "sem_timedwait");
  return true_call(semaphore, back(deadline, &room));
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *request, struct timespec *rest) {
  static int (*true_call)(clockid_t, int, const struct timespec *, struct timespec *);
  struct timespec room;
  if (!true_call)
    true_call = (int (*)(clockid_t, int, const struct timespec *, struct timespec *))dlsym(RTLD_NEXT, "clock_nanosleep");
  if (moved(clock) && (flags & TIMER_ABSTIME)) request = back(request, &room);
  return true_call(clock, flags, request, rest);
}

/* Absl waits on a futex of its own, until a moment of the calendar. */
long syscall(long number, ...) {
  va_list list;
  long a[6];
  struct timespec room;
  va_start(list, number);
  for (int k = 0; k < 6; k++) a[k] = va_arg(list, long);
  va_end(list);
  if (number == SYS_futex && (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && (a[1] & FUTEX_CLOCK_REALTIME))
    a[3] = (long)back((const struct timespec *)a[3], &room);
  return kernel(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
