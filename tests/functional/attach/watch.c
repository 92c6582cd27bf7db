/* SPDX-License-Identifier: Apache-2.0
 *
 * A hostile process of a container: takes hold of whatever of the host comes
 * in, which is what is seen to execute another file than those given.
 *
 * Usage: watch FILE...; says "ready", then a line for each new finding:
 * "denied" for a process that keeps it out, else what it could take.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct stat known[16];
static int number;

static int is_known(const struct stat *status)
{
    for (int i = 0; i < number; i++)
        if (known[i].st_ino == status->st_ino
            && known[i].st_dev == status->st_dev)
            return 1;
    return 0;
}

static void say(const char *what)
{
    static char said[4096];
    if (strstr(said, what) || strlen(said) + strlen(what) > 4000)
        return;
    strcat(said, what);
    printf("%s\n", what);
    fflush(stdout);
}

/* Ask whether it could be written to; the kernel would refuse to open it for
 * that as long as it is executed anywhere. */
static void try_to_write(int fd)
{
    char path[64], line[128];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int refused = access(path, W_OK);
    snprintf(line, sizeof line, "written: %s",
             refused ? strerror(errno) : "yes");
    say(line);
}

static void attack(const char *pid)
{
    char path[300];
    struct stat status;
    static const char *names[] = {"root", "cwd", "mem", "fd/0", "fd/3"};

    snprintf(path, sizeof path, "/proc/%s/exe", pid);
    int fd = open(path, O_RDONLY);
    if (fd < 0) {
        if (errno != EACCES)
            return;
        say("denied");
    } else {
        fstat(fd, &status);
        if (is_known(&status)) {
            close(fd);
            return;
        }
        say("opened exe");
        try_to_write(fd);
        close(fd);
        return;
    }
    /* It has just kept its executable to itself. */
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "/proc/%s/%s", pid, names[i]);
        /* Memory is for who may attach to the process as a debugger. */
        fd = open(path, names[i][0] == 'm' ? O_RDWR : O_PATH);
        if (fd >= 0) {
            snprintf(path, sizeof path, "/proc/%s/exe", pid);
            /* After it has executed the command it is one of ours. */
            if (access(path, F_OK) != 0 && errno == EACCES)
                say(names[i]);
        }
        close(fd);
    }
}

int main(int count, char **files)
{
    for (int i = 1; i < count && number < 16; i++)
        if (stat(files[i], &known[number]) == 0)
            number++;
    stat("/proc/self/exe", &known[number++]);
    say("ready");
    for (;;) {
        DIR *processes = opendir("/proc");
        struct dirent *entry;
        while ((entry = readdir(processes)))
            if (atoi(entry->d_name) > 0)
                attack(entry->d_name);
        closedir(processes);
    }
}
