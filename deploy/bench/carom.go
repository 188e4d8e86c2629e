package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"carom/deploy/up/supervise"
)

// nobody is a loopback address that refuses connections: tcpmux, which nothing runs.
const nobody = "127.0.0.1:1"

var (
	caromRelay = server{
		name: "carom", missing: nothing,
		start: func(ctx context.Context, st *stage) (*running, error) {
			return startCarom(ctx, st, relayTo(st.sinkAddr))
		},
	}
	caromAccept = server{
		name: "carom", missing: nothing,
		start: func(ctx context.Context, st *stage) (*running, error) { return startCarom(ctx, st, relayTo(nobody)) },
	}
)

// caromConfig wants the listener and what the scenario adds. Spool and event log are synced by
// every carom: there is no switch.
const caromConfig = `host-name carom.test
smtp-listener %s
<source 127.0.0.1>
    always-allow-relaying yes
</source>
<spool spool>
</spool>
<event-log events>
</event-log>
%s`

// relayTo returns the configuration of a relay that hands all mail to a loopback address. Twenty
// connections are the default of PowerMTA and of Postfix.
func relayTo(addr string) string {
	return fmt.Sprintf(`<domain *>
    smtp-hosts [127.0.0.1]:%s
    max-smtp-out 20
    connection-idle-timeout 5s
    retry-after 1h
</domain>
`, portOf(addr))
}

// node is a running carom sender of the stage's own binary.
type node struct {
	addr string
	pid  int
}

func (n *node) usage() (usage, error) { return treeUsage(n.pid) }

// writeConfig writes a configuration file into dir and returns its path.
func writeConfig(dir, addr, more string) (string, error) {
	file := filepath.Join(dir, "carom.conf")
	return file, os.WriteFile(file, fmt.Appendf(nil, caromConfig, addr, more), 0o600)
}

// startNode starts the real binary in a folder of its own, and returns when it takes mail.
func (l *lab) startNode(ctx context.Context, sup *supervise.Supervisor, name, dir, more string) (*node, error) {
	addr, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	config, err := writeConfig(dir, addr, more)
	if err != nil {
		return nil, err
	}
	err = sup.Start(ctx, supervise.Process{
		Name: name, Path: l.carom, Once: true, Args: []string{"sender", "-c", config},
		Ready: func(ctx context.Context) error { return answers(ctx, addr) },
	})
	if err != nil {
		return nil, err
	}
	pid, err := pidOf(sup, name)
	return &node{addr: addr, pid: pid}, err
}

// startCarom starts a node in the stage's folder.
func startCarom(ctx context.Context, st *stage, more string) (*running, error) {
	n, err := st.lab.startNode(ctx, st.sup, "carom", st.dir, more)
	if err != nil {
		return nil, err
	}
	return &running{addr: n.addr, usage: n.usage}, nil
}
