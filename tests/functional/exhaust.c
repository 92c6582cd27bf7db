/* SPDX-License-Identifier: Apache-2.0
 *
 * Use up what the kernel lets a user have, or try to have one more.
 *
 * usage: exhaust KIND all|one
 *
 * KIND is "inotify" (instances), "keys", "processes" or "threads". Prints how
 * many there were and which error came then; with "all", keeps them until its
 * input ends. Of threads it does not limit itself. A program without needs of its own, to be run in any container.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/keyctl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* More than a container of the tests runs, and no more than a moment's work. */
#define PROCESSES 50
/* More than a container may have; those of two are more than a host has. */
#define THREADS 20000

static int make_inotify(int number)
{
	(void)number;
	return inotify_init1(IN_CLOEXEC);
}

static int make_key(int number)
{
	char name[32];

	snprintf(name, sizeof(name), "key-%d", number);
	return syscall(SYS_add_key, "user", name, "x", 1,
		       KEY_SPEC_PROCESS_KEYRING);
}

static int make_process(int number)
{
	int parent = getpid(), pid = fork();

	(void)number;
	if (pid == 0) {
		close(STDOUT_FILENO);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == parent)
			pause();
		_exit(0);
	}
	return pid;
}

static void *wait_for_ever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static int make_thread(int number)
{
	pthread_attr_t attributes;
	pthread_t thread;

	(void)number;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 16384);
	pthread_attr_setguardsize(&attributes, 0);
	errno = pthread_create(&thread, &attributes, wait_for_ever, NULL);
	return errno ? -1 : 0;
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";
	const struct rlimit processes = { PROCESSES, PROCESSES };
	int (*make)(int) = NULL;
	int most = argc > 2 && !strcmp(argv[2], "one") ? 1 : 1000000;
	int number = 0;

	if (!strcmp(kind, "inotify"))
		make = make_inotify;
	if (!strcmp(kind, "keys"))
		make = make_key;
	if (!strcmp(kind, "processes"))
		make = make_process;
	if (!strcmp(kind, "threads"))
		make = make_thread;
	if (make == NULL)
		return 2;
	if (make == make_thread)
		most = most == 1 ? 1 : THREADS;
	else if (setrlimit(RLIMIT_NPROC, &processes) != 0)
		return 2;
	errno = 0;
	while (number < most && make(number) >= 0)
		number++;
	printf("%d %s\n", number, number < most ? strerrorname_np(errno) : "ok");
	fflush(stdout);
	if (most > 1)
		while (getchar() != EOF)
			;
	/* The children of this process end with it. */
	return 0;
}
