package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/deploy/up"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/engine"
)

// clickHouseConfig wants ClickHouse's address. The agent's interval is that of carom up.
const clickHouseConfig = `<feed feed>
</feed>
<event-stream http://%s>
    batch-interval 1s
</event-stream>
` + adminConfig

// clickHousePolicy is that of carom up: the control loop computes everything and changes nothing.
const clickHousePolicy = "mode: advise\n"

// withClickHouse is carom as carom up runs it: engine, schema, node, agent and analytics. A run ends
// when every event is a row; CPU time and memory are those of all processes.
var withClickHouse = server{
	name: "carom, events into ClickHouse",
	missing: func(l *lab) string {
		if _, err := engine.FindLibrary(l.engineLib); err != nil {
			return err.Error()
		}
		return ""
	},
	start: startSystem,
}

// withoutClickHouse is the same node alone.
var withoutClickHouse = server{name: "carom alone", missing: nothing, start: caromRelay.start}

// system is what carom up runs, under the stage's supervisor.
type system struct {
	st    *stage
	admin *adminClient
	conn  driver.Conn // to ClickHouse
}

func startSystem(ctx context.Context, st *stage) (*running, error) {
	smtp, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	web, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	config, err := writeConfig(st.dir, smtp, relayTo(st.sinkAddr)+fmt.Sprintf(clickHouseConfig, web))
	if err != nil {
		return nil, err
	}
	policy := filepath.Join(st.dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte(clickHousePolicy), 0o600); err != nil {
		return nil, err
	}
	o := up.Options{Dir: st.dir, ConfigFile: config, PolicyFile: policy, EngineLib: st.lab.engineLib, LogLevel: "warn", Executable: st.lab.carom}
	y, err := up.Open(o)
	if err != nil {
		return nil, err
	}
	if err := y.Start(ctx, st.sup); err != nil {
		return nil, err
	}
	conn, err := warehouse.Open(ctx, "http://"+web+"/"+warehouse.DefaultDatabase, warehouse.Options{})
	if err != nil {
		return nil, err
	}
	s := &system{st: st, conn: conn, admin: newAdminClient(filepath.Join(st.dir, adminSocket))}
	return &running{
		addr: smtp, usage: s.usage, landed: s.landed, check: s.check,
		stop: func(context.Context) error {
			s.admin.close()
			return conn.Close()
		},
	}, nil
}

// usage adds up all processes of the system, but for smtp-sink.
func (s *system) usage() (sum usage, err error) {
	for _, p := range s.st.sup.States() {
		if p.Name == sinkName || p.PID == 0 {
			continue
		}
		u, err := treeUsage(p.PID)
		if err != nil {
			return usage{}, fmt.Errorf("%s: %w", p.Name, err)
		}
		sum.cpu += u.cpu
		sum.memory += u.memory
	}
	return sum, nil
}

// landed waits until ClickHouse has every event of the mail so far.
func (s *system) landed(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := s.admin.status(ctx)
		if err != nil {
			return err
		}
		var rows uint64
		// Parts know their number of rows: this reads nothing, so that it can be asked often.
		if err := s.conn.QueryRow(ctx, "SELECT count() FROM events").Scan(&rows); err != nil {
			return fmt.Errorf("count events: %w", err)
		}
		if status.LiveRecipients == 0 && rows >= status.EventSeq {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("ClickHouse has %d of %d events: %w", rows, status.EventSeq, context.Cause(ctx))
		}
	}
}

// check returns an error unless every record is in ClickHouse exactly once, and no process was
// started twice.
func (s *system) check(ctx context.Context) error {
	var last, gaps, duplicates uint64
	row := s.conn.QueryRow(ctx, "SELECT sum(last_seq), toUInt64(sum(gaps + before_first)), toUInt64(sum(duplicates)) FROM completeness WHERE stream = 'event'")
	if err := row.Scan(&last, &gaps, &duplicates); err != nil {
		return fmt.Errorf("ask for completeness: %w", err)
	}
	status, err := s.admin.status(ctx)
	if err != nil {
		return err
	}
	var errs []error
	if last != status.EventSeq || gaps > 0 || duplicates > 0 {
		errs = append(errs, fmt.Errorf("%d events written, %d in ClickHouse, %d gaps, %d duplicates", status.EventSeq, last, gaps, duplicates))
	}
	for _, p := range s.st.sup.States() {
		if p.Restarts > 0 {
			errs = append(errs, fmt.Errorf("%s ended and was started again", p.Name))
		}
	}
	return errors.Join(errs...)
}
