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
		name: "carom", missing: func() string { return "" },
		start: func(ctx context.Context, st *stage) (*running, error) { return startCarom(ctx, st, st.sinkAddr) },
	}
	caromAccept = server{
		name: "carom", missing: func() string { return "" },
		start: func(ctx context.Context, st *stage) (*running, error) { return startCarom(ctx, st, nobody) },
	}
)

// caromConfig wants the listener and the address to deliver to. Twenty connections are the default
// of PowerMTA and of Postfix. Spool and event log are synced by every carom: there is no switch.
const caromConfig = `host-name carom.test
smtp-listener %s
<source 127.0.0.1>
    always-allow-relaying yes
</source>
<domain *>
    smtp-hosts [127.0.0.1]:%s
    max-smtp-out 20
    connection-idle-timeout 5s
    retry-after 1h
</domain>
<spool spool>
</spool>
<event-log events>
</event-log>
`

// startCarom starts the real binary, which delivers to the given loopback address.
func startCarom(ctx context.Context, st *stage, to string) (*running, error) {
	addr, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(st.dir, "carom.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, caromConfig, addr, portOf(to)), 0o600); err != nil {
		return nil, err
	}
	err = st.sup.Start(ctx, supervise.Process{
		Name: "carom", Path: st.lab.carom, Once: true, Args: []string{"sender", "-c", config},
		Ready: func(ctx context.Context) error { return answers(ctx, addr) },
	})
	if err != nil {
		return nil, err
	}
	pid, err := st.pid("carom")
	if err != nil {
		return nil, err
	}
	return &running{addr: addr, usage: func() (usage, error) { return treeUsage(pid) }}, nil
}
