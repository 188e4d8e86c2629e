package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"carom/deploy/peers"
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

// postfix returns Debian's Postfix with further lines for main.cf.
func postfix(name, more string) server {
	return server{
		name: name, missing: postfixMissing,
		start: func(ctx context.Context, st *stage) (*running, error) { return startPostfix(ctx, st, more) },
	}
}

func postfixMissing(l *lab) string {
	if missing := new(peers.Postfix).Missing(); missing != "" {
		return missing
	}
	if folder := closedFolder(l.dir); folder != "" {
		return "its daemons, which are no longer root, cannot enter " + folder + " (see --dir)"
	}
	return ""
}

// relayMain is a relay that hands all mail to one host. It wants the host's port.
const relayMain = `mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:%s
`

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
	addr, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	instance := &peers.Postfix{
		Settings: peers.Settings{Dir: st.dir, Listen: addr}, More: fmt.Sprintf(relayMain, portOf(st.sinkAddr)) + more,
	}
	if err := instance.Write(); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	process := instance.Process()
	process.Ready = func(ctx context.Context) error { return answers(ctx, addr) }
	if err := st.sup.Start(ctx, process); err != nil {
		return nil, errors.Join(err, instance.Stop(context.WithoutCancel(ctx)))
	}
	pid, err := pidOf(st.sup, process.Name)
	if err != nil {
		return nil, errors.Join(err, instance.Stop(context.WithoutCancel(ctx)))
	}
	return &running{addr: addr, usage: func() (usage, error) { return treeUsage(pid) }, stop: instance.Stop}, nil
}

// portOf returns the port of an address that was made here.
func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}
