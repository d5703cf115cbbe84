/* Storage faults for the tests: a library to be preloaded, which stands between a process and the kernel.

   It does nothing until faults_arm() is called in the process. From then on every call that changes a file, a folder
   or what of them is durable below one folder (the root) is a position: it is counted, logged, and made to fail where
   it was asked to. Calls on anything else pass through. The real calls are made by number, so that no other library
   is looked up and nothing is allocated on the way. Linux, 64 bits. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum kind { WRITE = 1, SYNC = 2, RENAME = 4, LINK = 8, UNLINK = 16, TRUNCATE = 32, CREATE = 64, MKDIR = 128 };
enum special { GOES_ON = 0, SHORT = -1, DEATH = -2 };
enum { ALL_FILES = -1 }; /* the length in the log of a sync of the whole file system */

static struct {
    volatile int on;
    char root[PATH_MAX], sentinel[PATH_MAX];
    size_t root_length;
    int mask, error, again;
    long at, position;
    int log, data;
} faults = {.log = -1, .data = -1};
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER; /* the log has the order in which things happened */

/* mask: kinds that count; at: the position that fails, 0 for none; error: an errno, SHORT or DEATH; again: later ones
   too (EINTR: every other one, as nothing would ever get on); sentinel: a file, faults only while it is there, or "";
   log: where each call is written down, or ""; data: where what was written goes, in the log's order, or "". */
EXPORT int faults_arm(const char *root, int mask, long at, int error, int again, const char *sentinel, const char *log,
                      const char *data)
{
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
    if (strlen(root) >= sizeof faults.root || strlen(sentinel) >= sizeof faults.sentinel)
        return -1;
    strcpy(faults.root, root);
    strcpy(faults.sentinel, sentinel);
    faults.root_length = strlen(root);
    faults.mask = mask, faults.at = at, faults.error = error, faults.again = again, faults.position = 0;
    if (*log && (faults.log = syscall(SYS_openat, AT_FDCWD, log, flags, 0600)) < 0)
        return -1;
    if (*data && (faults.data = syscall(SYS_openat, AT_FDCWD, data, flags, 0600)) < 0)
        return -1;
    faults.on = 1;
    return 0;
}

EXPORT long faults_count(void) { return faults.position; }

/* ---- which file is it ---- */

static int below_root(const char *path)
{
    size_t length = faults.root_length;
    return strncmp(path, faults.root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int path_of_fd(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = 0;
    return length > 0;
}

static int full_path(int folder, const char *name, char *path)
{
    if (name[0] == '/')
        return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX;
    if (folder == AT_FDCWD) {
        if (syscall(SYS_getcwd, path, PATH_MAX) <= 0)
            return 0;
    } else if (!path_of_fd(folder, path))
        return 0;
    size_t length = strlen(path);
    return snprintf(path + length, PATH_MAX - length, "/%s", name) < (int)(PATH_MAX - length);
}

/* Callers' errno is theirs: what is asked here on the way must not show. */
static int watched_fd(int fd, char *path)
{
    int kept = errno, found = faults.on && path_of_fd(fd, path) && below_root(path) && !strstr(path, " (deleted)");
    errno = kept;
    return found;
}

static int watched_name(int folder, const char *name, char *path)
{
    int kept = errno, found = faults.on && name && full_path(folder, name, path) && below_root(path);
    errno = kept;
    return found;
}

static int is_there(const char *path)
{
    struct stat found;
    return syscall(SYS_newfstatat, AT_FDCWD, path, &found, AT_SYMLINK_NOFOLLOW) == 0;
}

/* ---- what becomes of it ---- */

static const char *name_of(int kind)
{
    switch (kind) {
    case WRITE: return "write";
    case SYNC: return "sync";
    case RENAME: return "rename";
    case LINK: return "link";
    case UNLINK: return "unlink";
    case TRUNCATE: return "truncate";
    case CREATE: return "create";
    default: return "mkdir";
    }
}

/* position TAB kind TAB outcome TAB offset TAB length TAB path TAB other path */
static void note(int kind, const char *outcome, long offset, long length, const char *path, const char *other)
{
    char line[2 * PATH_MAX + 128];
    if (faults.log < 0)
        return;
    int size = snprintf(line, sizeof line, "%ld\t%s\t%s\t%ld\t%ld\t%s\t%s\n", faults.position, name_of(kind), outcome,
                        offset, length, path, other);
    syscall(SYS_write, faults.log, line, (size_t)size);
}

/* Count a call that is about to be made; what it is to fail with, or GOES_ON. */
static int verdict(int kind)
{
    if (!(faults.mask & kind))
        return GOES_ON;
    if (faults.sentinel[0] && !is_there(faults.sentinel))
        return GOES_ON;
    long past = ++faults.position - faults.at;
    if (faults.at == 0 || past < 0 || (past > 0 && !faults.again))
        return GOES_ON;
    return faults.error == EINTR && past % 2 ? GOES_ON : faults.error;
}

/* Enter a watched call. Returns 0 when it goes on, with the lock held; else it has failed, with errno set. */
static int begin(int kind, const char *path, const char *other)
{
    pthread_mutex_lock(&order);
    int error = verdict(kind);
    if (error == DEATH) {
        note(kind, "death", 0, 0, path, other);
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
        for (;;)
            pause();
    }
    if (error == GOES_ON || error == SHORT)
        return error;
    note(kind, "fault", 0, 0, path, other);
    pthread_mutex_unlock(&order);
    errno = error;
    return error;
}

static long end(int kind, long result, long length, const char *path, const char *other)
{
    int kept = errno;
    if (result >= 0)
        note(kind, "ok", 0, length, path, other);
    pthread_mutex_unlock(&order);
    errno = kept;
    return result;
}

/* ---- the calls: what is written ---- */

enum { OWN_POSITION = -1 };

static long raw_write(int fd, const void *data, size_t size, off_t offset)
{
    if (offset == OWN_POSITION)
        return syscall(SYS_write, fd, data, size);
    return syscall(SYS_pwrite64, fd, data, size, offset);
}

static off_t end_or_position(int fd)
{
    struct stat found;
    if (syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND && syscall(SYS_fstat, fd, &found) == 0)
        return found.st_size;
    return syscall(SYS_lseek, fd, 0L, SEEK_CUR);
}

static ssize_t put(int fd, const void *data, size_t size, off_t offset)
{
    char path[PATH_MAX];
    if (size == 0 || !watched_fd(fd, path))
        return raw_write(fd, data, size, offset);
    int asked = begin(WRITE, path, "");
    if (asked > 0)
        return -1;
    int cut = asked == SHORT && size > 1; /* legal: the caller has to write the rest */
    off_t at = offset == OWN_POSITION ? end_or_position(fd) : offset;
    long written = raw_write(fd, data, cut ? size / 2 : size, offset);
    int kept = errno;
    if (written > 0) {
        note(WRITE, cut ? "fault" : "ok", at, written, path, "");
        if (faults.data >= 0)
            syscall(SYS_write, faults.data, data, (size_t)written);
    }
    pthread_mutex_unlock(&order);
    errno = kept;
    return written;
}

EXPORT ssize_t write(int fd, const void *data, size_t size) { return put(fd, data, size, OWN_POSITION); }
EXPORT ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return put(fd, data, size, offset); }
EXPORT ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return put(fd, data, size, offset); }

/* A watched file gets the first part only, which is a legal short write. */
EXPORT ssize_t writev(int fd, const struct iovec *parts, int count)
{
    char path[PATH_MAX];
    if (count > 0 && watched_fd(fd, path))
        return put(fd, parts[0].iov_base, parts[0].iov_len, OWN_POSITION);
    return syscall(SYS_writev, fd, parts, count);
}

EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    char path[PATH_MAX];
    if (count > 0 && watched_fd(fd, path))
        return put(fd, parts[0].iov_base, parts[0].iov_len, offset);
    return syscall(SYS_pwritev, fd, parts, count, offset, 0L);
}

EXPORT ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset)
{
    return pwritev(fd, parts, count, offset);
}

static int cut_to(int fd, off_t length)
{
    char path[PATH_MAX];
    if (!watched_fd(fd, path))
        return syscall(SYS_ftruncate, fd, length);
    if (begin(TRUNCATE, path, "") > 0)
        return -1;
    return end(TRUNCATE, syscall(SYS_ftruncate, fd, length), length, path, "");
}

EXPORT int ftruncate(int fd, off_t length) { return cut_to(fd, length); }
EXPORT int ftruncate64(int fd, off_t length) { return cut_to(fd, length); }

/* ---- what is made durable ---- */

static int sync_by(long number, int fd)
{
    char path[PATH_MAX];
    if (!watched_fd(fd, path))
        return syscall(number, fd);
    if (begin(SYNC, path, "") > 0)
        return -1;
    return end(SYNC, syscall(number, fd), number == SYS_syncfs ? ALL_FILES : 0, path, "");
}

EXPORT int fsync(int fd) { return sync_by(SYS_fsync, fd); }
EXPORT int fdatasync(int fd) { return sync_by(SYS_fdatasync, fd); }
EXPORT int syncfs(int fd) { return sync_by(SYS_syncfs, fd); }

/* ---- names ---- */

static int open_by(int folder, const char *name, int flags, mode_t mode)
{
    char path[PATH_MAX];
    if (!(flags & (O_CREAT | O_TRUNC)) || !watched_name(folder, name, path))
        return syscall(SYS_openat, folder, name, flags, mode);
    int there = is_there(path);
    if (there && !((flags & O_TRUNC) && !(flags & O_EXCL)))
        return syscall(SYS_openat, folder, name, flags, mode);
    if (begin(there ? TRUNCATE : CREATE, path, "") > 0)
        return -1;
    return end(there ? TRUNCATE : CREATE, syscall(SYS_openat, folder, name, flags, mode), 0, path, "");
}

#define OPEN(declared, folder)                                                                                         \
    EXPORT int declared                                                                                                \
    {                                                                                                                  \
        mode_t mode = 0;                                                                                               \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                                           \
            va_list more;                                                                                              \
            va_start(more, flags);                                                                                     \
            mode = va_arg(more, mode_t);                                                                               \
            va_end(more);                                                                                              \
        }                                                                                                              \
        return open_by(folder, name, flags, mode);                                                                     \
    }

OPEN(open(const char *name, int flags, ...), AT_FDCWD)
OPEN(open64(const char *name, int flags, ...), AT_FDCWD)
OPEN(openat(int folder, const char *name, int flags, ...), folder)
OPEN(openat64(int folder, const char *name, int flags, ...), folder)

EXPORT int mkdirat(int folder, const char *name, mode_t mode)
{
    char path[PATH_MAX];
    if (!watched_name(folder, name, path) || is_there(path))
        return syscall(SYS_mkdirat, folder, name, mode);
    if (begin(MKDIR, path, "") > 0)
        return -1;
    return end(MKDIR, syscall(SYS_mkdirat, folder, name, mode), 0, path, "");
}

EXPORT int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

EXPORT int renameat2(int from, const char *name, int to, const char *target, unsigned flags)
{
    char path[PATH_MAX], other[PATH_MAX];
    if (!watched_name(from, name, path) || !is_there(path) || !full_path(to, target, other))
        return syscall(SYS_renameat2, from, name, to, target, flags);
    if (begin(RENAME, path, other) > 0)
        return -1;
    return end(RENAME, syscall(SYS_renameat2, from, name, to, target, flags), 0, path, other);
}

EXPORT int renameat(int from, const char *name, int to, const char *target)
{
    return renameat2(from, name, to, target, 0);
}

EXPORT int rename(const char *name, const char *target) { return renameat2(AT_FDCWD, name, AT_FDCWD, target, 0); }

EXPORT int linkat(int from, const char *name, int to, const char *target, int flags)
{
    char path[PATH_MAX], other[PATH_MAX];
    if (!watched_name(to, target, other) || is_there(other) || !full_path(from, name, path))
        return syscall(SYS_linkat, from, name, to, target, flags);
    if (begin(LINK, path, other) > 0)
        return -1;
    return end(LINK, syscall(SYS_linkat, from, name, to, target, flags), 0, path, other);
}

EXPORT int link(const char *name, const char *target) { return linkat(AT_FDCWD, name, AT_FDCWD, target, 0); }

EXPORT int unlinkat(int folder, const char *name, int flags)
{
    char path[PATH_MAX];
    if (!watched_name(folder, name, path) || !is_there(path))
        return syscall(SYS_unlinkat, folder, name, flags);
    if (begin(UNLINK, path, "") > 0)
        return -1;
    return end(UNLINK, syscall(SYS_unlinkat, folder, name, flags), 0, path, "");
}

EXPORT int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
EXPORT int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }
