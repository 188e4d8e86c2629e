package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"

	"carom/deploy/up/supervise"
)

var (
	postfixDefault = postfix("postfix", "")
	// postfixRaised lets Postfix have as many processes as there are sessions on both sides, and
	// does not slow its intake down when delivery falls behind.
	postfixRaised = postfix("postfix, limits raised", `default_process_limit = 200
initial_destination_concurrency = 40
default_destination_concurrency_limit = 40
in_flow_delay = 0
`)
)

// postfixMain is main.cf: Debian's own, cut down to a relay that hands all mail to one host, and
// with a log file in place of syslog, because not every machine has a syslogd. It wants the folder,
// the port of the relay host and further lines.
const postfixMain = `compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
maillog_file = %[1]s/maillog
maillog_file_prefixes = %[1]s
myhostname = postfix.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
mydestination =
local_recipient_maps =
alias_maps =
biff = no
relayhost = [127.0.0.1]:%[2]s
%[3]s`

// postfixMaster is master.cf: Debian's own without what a relay does not use and without chroot,
// for which Debian's start script copies files into the queue folder. It wants the listener.
const postfixMaster = `%s inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`

// postfix returns Debian's Postfix with further lines for main.cf.
func postfix(name, more string) server {
	return server{
		name: name, missing: postfixMissing,
		start: func(ctx context.Context, st *stage) (*running, error) { return startPostfix(ctx, st, more) },
	}
}

func postfixMissing(l *lab) string {
	if _, err := find("postfix"); err != nil {
		return "it is not installed (Debian's package postfix)"
	}
	if _, err := user.Lookup("postfix"); err != nil {
		return "there is no user postfix"
	}
	if os.Geteuid() != 0 {
		return "Postfix starts as root only"
	}
	if folder := closedFolder(l.dir); folder != "" {
		return "its daemons, which are no longer root, cannot enter " + folder + " (see --dir)"
	}
	return ""
}

// closedFolder returns the first of dir and its parents, from dir up, that only its owner and group
// may enter; "" if there is none.
func closedFolder(dir string) string {
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

// startPostfix starts an instance with folders of its own.
func startPostfix(ctx context.Context, st *stage, more string) (*running, error) {
	program, err := find("postfix")
	if err != nil {
		return nil, err
	}
	addr, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(st.dir, "config")
	if err := writePostfix(st.dir, config, addr, st.sinkAddr, more); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	// start-fg leaves a shell with the master as its child, which has a process group of its own:
	// only `postfix stop` ends them all.
	stop := func(ctx context.Context) error {
		out, err := exec.CommandContext(ctx, program, "-c", config, "stop").CombinedOutput() //nolint:gosec // a fixed name
		if err != nil {
			return fmt.Errorf("stop postfix: %w: %s", err, out)
		}
		return nil
	}
	err = st.sup.Start(ctx, supervise.Process{
		Name: "postfix", Path: program, Once: true, Args: []string{"-c", config, "start-fg"},
		Ready: func(ctx context.Context) error { return answers(ctx, addr) },
	})
	if err != nil {
		return nil, errors.Join(err, stop(context.WithoutCancel(ctx)))
	}
	pid, err := pidOf(st.sup, "postfix")
	if err != nil {
		return nil, errors.Join(err, stop(context.WithoutCancel(ctx)))
	}
	return &running{addr: addr, usage: func() (usage, error) { return treeUsage(pid) }, stop: stop}, nil
}

// writePostfix writes the configuration and makes the folders that Postfix does not make itself.
func writePostfix(dir, config, listen, to, more string) error {
	owner, err := user.Lookup("postfix")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return err
	}
	for _, folder := range []string{config, filepath.Join(dir, "queue"), filepath.Join(dir, "data")} {
		if err := os.Mkdir(folder, 0o755); err != nil { //nolint:gosec // Postfix's daemons read it
			return err
		}
	}
	if err := os.Chown(filepath.Join(dir, "data"), uid, -1); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"main.cf":   fmt.Sprintf(postfixMain, dir, portOf(to), more),
		"master.cf": fmt.Sprintf(postfixMaster, listen),
	} {
		if err := os.WriteFile(filepath.Join(config, name), []byte(text), 0o644); err != nil { //nolint:gosec // Postfix's daemons read it
			return err
		}
	}
	return nil
}

// portOf returns the port of an address that was made here.
func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}
