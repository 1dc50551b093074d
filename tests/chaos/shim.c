/* A library that is loaded before libc (LD_PRELOAD) and stands between a program and its storage, and between Python and the clock.
 *
 * CHAOS_CONTROL names a file of 16 bytes that all processes map: an errno (int), milliseconds (int), seconds (double). While the
 * errno is not 0, what is done to a file below CHAOS_ROOT fails with it; while the milliseconds are not 0, it waits so long first.
 * The seconds are added to the wall clock as Python sees it: callers within the Python executable or libpython, and nobody else,
 * since a deadline that a C++ library computes from a shifted clock would be waited for by the kernel's. But for gRPC's Python
 * library: it is given deadlines that Python computed, and holds them against its own clock.
 * Paths relative to the working directory, memory maps and stdio's own writes are left alone: nothing here uses them on a run.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control { volatile int32_t error; volatile int32_t delay_ms; volatile double shift_s; };

static struct control *control;
static char root[PATH_MAX];
static size_t root_length;
static uintptr_t python_begin[3], python_end[3];

static int note_python(struct dl_phdr_info *info, size_t size, void *data) {
    const char *name = info->dlpi_name;
    int place = name[0] == '\0' ? 0 : strstr(name, "libpython") ? 1 : strstr(name, "/cygrpc.") ? 2 : -1;
    (void)size; (void)data;
    for (int i = 0; place >= 0 && i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type == PT_LOAD && (part->p_flags & PF_X)) {
            python_begin[place] = info->dlpi_addr + part->p_vaddr;
            python_end[place] = python_begin[place] + part->p_memsz;
        }
    }
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("CHAOS_CONTROL"), *below = getenv("CHAOS_ROOT");
    char name[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", name, sizeof name - 1);
    if (!file || !below || length < 0) return;
    name[length] = '\0';
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED) return;
    snprintf(root, sizeof root, "%s", below);
    root_length = strlen(root);
    const char *last = strrchr(name, '/'); /* Ray's own programs lie below a directory of Python's */
    if (strncmp(last ? last + 1 : name, "python", 6) == 0) dl_iterate_phdr(note_python, NULL);
    control = mapped;
}

#define REAL(name) ({ static __typeof__(&name) found; if (!found) found = (__typeof__(&name))dlsym(RTLD_NEXT, #name); found; })

static int is_below(const char *path) {
    return path && strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == '\0');
}

/* Wait, and then 1 where the call has to fail. */
static int struck(const char *path) {
    if (!control || (!control->error && !control->delay_ms) || !is_below(path)) return 0;
    int wait = control->delay_ms;
    if (wait) {
        struct timespec span = {wait / 1000, (wait % 1000) * 1000000L};
        nanosleep(&span, NULL);
    }
    if (!control->error) return 0;
    errno = control->error;
    return 1;
}

static int struck_file(int fd) {
    if (!control || (!control->error && !control->delay_ms)) return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = '\0';
    return struck(path);
}

static mode_t mode_of(int flags, va_list more) {
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(more, mode_t) : 0;
}

#define OPENS(name)                                                                    \
    int name(const char *path, int flags, ...) {                                       \
        va_list more; va_start(more, flags); mode_t mode = mode_of(flags, more); va_end(more); \
        return struck(path) ? -1 : REAL(name)(path, flags, mode);                      \
    }
#define OPENS_AT(name)                                                                 \
    int name(int at, const char *path, int flags, ...) {                               \
        va_list more; va_start(more, flags); mode_t mode = mode_of(flags, more); va_end(more); \
        return struck(path) ? -1 : REAL(name)(at, path, flags, mode);                  \
    }

OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

FILE *fopen(const char *path, const char *mode) { return struck(path) ? NULL : REAL(fopen)(path, mode); }
FILE *fopen64(const char *path, const char *mode) { return struck(path) ? NULL : REAL(fopen64)(path, mode); }
int mkdir(const char *path, mode_t mode) { return struck(path) ? -1 : REAL(mkdir)(path, mode); }
int rename(const char *from, const char *to) { return struck(to) ? -1 : REAL(rename)(from, to); }
int unlink(const char *path) { return struck(path) ? -1 : REAL(unlink)(path); }
int unlinkat(int at, const char *path, int flags) { return struck(path) ? -1 : REAL(unlinkat)(at, path, flags); }
int fsync(int fd) { return struck_file(fd) ? -1 : REAL(fsync)(fd); }
int ftruncate(int fd, off_t size) { return struck_file(fd) ? -1 : REAL(ftruncate)(fd, size); }
ssize_t write(int fd, const void *data, size_t size) { return struck_file(fd) ? -1 : REAL(write)(fd, data, size); }
ssize_t writev(int fd, const struct iovec *parts, int count) { return struck_file(fd) ? -1 : REAL(writev)(fd, parts, count); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return struck_file(fd) ? -1 : REAL(pwrite)(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { return struck_file(fd) ? -1 : REAL(pwrite64)(fd, data, size, at); }

static double shift_for(const void *caller) {
    uintptr_t from = (uintptr_t)caller;
    if (!control || control->shift_s == 0.0) return 0.0;
    Dl_info found; /* gRPC's library is loaded when somebody imports it */
    if (python_end[0] && !python_end[2] && dladdr(caller, &found) && found.dli_fname && strstr(found.dli_fname, "/cygrpc."))
        dl_iterate_phdr(note_python, NULL);
    for (int i = 0; i < 3; i++)
        if (from >= python_begin[i] && from < python_end[i]) return control->shift_s;
    return 0.0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += (time_t)shift_for(__builtin_return_address(0));
    return result;
}

time_t time(time_t *now) {
    struct timespec spec;
    REAL(clock_gettime)(CLOCK_REALTIME, &spec);
    time_t result = spec.tv_sec + (time_t)shift_for(__builtin_return_address(0));
    if (now) *now = result;
    return result;
}
