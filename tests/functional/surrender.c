/* SPDX-License-Identifier: Apache-2.0
 *
 * Give up all capabilities, with somebody who keeps them; wait.
 *
 * usage: surrender process|thread|groups
 *
 * Who keeps them is a child, a thread, or a child in as many groups as the
 * kernel allows, of which it has much to tell before it comes to capabilities.
 */
#define _GNU_SOURCE
#include <grp.h>
#include <linux/capability.h>
#include <pthread.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define GROUPS 65536

static void *keep(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static int begin(const char *keeper)
{
	static gid_t groups[GROUPS];
	pthread_t thread;
	int number;

	if (!strcmp(keeper, "thread"))
		return pthread_create(&thread, NULL, keep, NULL);
	if (!strcmp(keeper, "groups")) {
		for (number = 0; number < GROUPS; number++)
			groups[number] = number;
		if (setgroups(GROUPS, groups))
			return 1;
	}
	if (fork() == 0)
		keep(NULL);
	return setgroups(0, NULL);
}

int main(int count, char **arguments)
{
	struct __user_cap_header_struct header = {
		_LINUX_CAPABILITY_VERSION_3, 0
	};
	struct __user_cap_data_struct none[2] = { { 0, 0, 0 }, { 0, 0, 0 } };
	int number;

	if (count != 2 || begin(arguments[1]))
		return 1;
	for (number = 0; number <= CAP_LAST_CAP; number++)
		prctl(PR_CAPBSET_DROP, number, 0, 0, 0);
	/* The C library's would be of all threads. */
	if (syscall(SYS_capset, &header, none))
		return 1;
	keep(NULL);
}
