/* SPDX-License-Identifier: Apache-2.0
 *
 * Do things to keys, one after the other, and print what came of each.
 *
 * usage: keys STEP...
 *
 * join             have a session keyring of one's own
 * add NAME VALUE   add a key to the session keyring
 * find NAME        search the session keyring, and print the value
 * change NAME      search it, and change the value
 * clear            take all keys out of the session keyring
 * revoke           make the session keyring unusable for all who have it
 * wait FILE        until there is one
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/keyctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SESSION KEY_SPEC_SESSION_KEYRING

static long search(const char *name)
{
	return syscall(SYS_keyctl, KEYCTL_SEARCH, SESSION, "user", name, 0);
}

static long find(const char *name)
{
	char value[64] = "";
	long key = search(name);

	if (key < 0 || syscall(SYS_keyctl, KEYCTL_READ, key, value,
			       sizeof(value) - 1) < 0)
		return -1;
	printf("%s=", value);
	return 0;
}

static long change(const char *name)
{
	long key = search(name);

	return key < 0 ? key : syscall(SYS_keyctl, KEYCTL_UPDATE, key, "x", 1);
}

static long step(char ***next)
{
	const char *verb = *(*next)++;

	if (!strcmp(verb, "join"))
		return syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
	if (!strcmp(verb, "clear"))
		return syscall(SYS_keyctl, KEYCTL_CLEAR, SESSION);
	if (!strcmp(verb, "revoke"))
		return syscall(SYS_keyctl, KEYCTL_REVOKE, SESSION);

	const char *name = *(*next)++;

	if (!strcmp(verb, "find"))
		return find(name);
	if (!strcmp(verb, "change"))
		return change(name);
	if (!strcmp(verb, "wait")) {
		while (access(name, F_OK))
			usleep(20000);
		return 0;
	}

	const char *value = *(*next)++;

	return syscall(SYS_add_key, "user", name, value, strlen(value),
		       SESSION);
}

int main(int count, char **arguments)
{
	char **next = arguments + 1;

	while (count && *next) {
		const char *verb = *next;
		long result = step(&next);

		printf("%s: %s\n", verb, result < 0 ? strerror(errno) : "done");
		fflush(stdout);
	}
	return 0;
}
