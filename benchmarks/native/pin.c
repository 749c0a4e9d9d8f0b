/* Runs a command on one core, and ends it when its parent ends, however that happens.
 *
 *     pin CORE COMMAND...
 */
#include "net.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    if (count < 3)
        die(2, "pin CORE COMMAND...");
    run_on(atoi(arguments[1]));
    execvp(arguments[2], arguments + 2);
    die(127, "cannot run %s: %s", arguments[2], strerror(errno));
}
