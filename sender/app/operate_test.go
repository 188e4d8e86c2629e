package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/schemas/service"
	"carom/sender/admin"
	"carom/sender/config"
	"carom/sender/orders"
	"carom/sender/spool"
)

// nodeVariable makes the test binary a node with the configuration that it names, to be killed.
const nodeVariable = "CAROM_TEST_NODE"

func TestMain(m *testing.M) {
	file := os.Getenv(nodeVariable)
	if file == "" {
		os.Exit(m.Run())
	}
	err := Command(context.Background(), []string{"-c", file, "--log-level", "warn"}, service.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, "test")
	fmt.Fprintln(os.Stderr, err)
	os.Exit(service.ExitStatus(err))
}

// operated returns a place with two virtual MTAs, whose configuration is on disk too.
func operated(t *testing.T, s *sink) *place {
	t.Helper()
	dir, err := os.MkdirTemp("", "app") //nolint:usetesting // the socket's name must be short, see unix(7)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	text := fmt.Sprintf(`
host-name node.test
smtp-listener 127.0.0.1:0
name-server 127.0.0.1:1
<source 127.0.0.1>
 always-allow-relaying yes
 process-x-job yes
 default-virtual-mta mail1
</source>
<virtual-mta mail1>
 smtp-source-host 127.0.0.1 mail1.test
</virtual-mta>
<virtual-mta mail2>
 smtp-source-host 127.0.0.1 mail2.test
</virtual-mta>
<domain *>
 smtp-hosts [127.0.0.1]:%d
 retry-recipients-after 0s
 bounce-after 1h
 max-smtp-out 2
</domain>
<spool %[2]s/spool>
</spool>
<event-log %[2]s/events>
</event-log>
<admin %[2]s/admin.sock>
</admin>
`, s.port, dir)
	file := filepath.Join(dir, "config")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Parse(file, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return &place{t, dir, c}
}

// client returns a client of the place's node when it answers.
func (p *place) client() *admin.Client {
	p.t.Helper()
	c := admin.NewClient(filepath.Join(p.dir, "admin.sock"))
	waitFor(p.t, "an answer at the admin socket", func() bool {
		_, err := c.Status(p.t.Context())
		return err == nil
	})
	return c
}

func give(t *testing.T, c *admin.Client, i admin.Instruction) admin.Result {
	t.Helper()
	r, err := c.Give(t.Context(), i)
	if err != nil {
		t.Fatalf("%s %s: %v", i.Kind, i.Filter, err)
	}
	return r
}

// fill puts messages for domain into the spool of a node that does not run, each with one recipient.
func (p *place) fill(messages int, domain, job string) {
	p.t.Helper()
	store, err := spool.Open(p.t.Context(), filepath.Join(p.dir, "spool"), spool.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	const writers = 100 // share their syncs
	var all sync.WaitGroup
	failed := make(chan error, writers)
	for range writers {
		all.Go(func() {
			for range messages / writers {
				e := &spool.Envelope{
					ID: event.NewID(), From: "news@shop.test", Arrived: time.Now(), Tenant: "shop", Job: job, VMTA: "mail1",
					Recipients: []spool.Recipient{{Address: "ann@" + domain}},
				}
				if err := store.Put(p.t.Context(), e, []byte("From: a@shop.test\r\n\r\nx\r\n")); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(failed)
	if err := errors.Join(<-failed, store.Close()); err != nil {
		p.t.Fatal(err)
	}
}

// ends returns how many recipients have each kind of end, and fails the test where one has two.
func (p *place) ends() map[event.Kind]int {
	p.t.Helper()
	reader, err := seglog.OpenReader(filepath.Join(p.dir, "events", event.StreamEvent), 1, seglog.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	type recipient struct {
		id    event.ID
		index uint32
	}
	ended := map[recipient]event.Kind{}
	counts := map[event.Kind]int{}
	for {
		entry, ok, err := reader.TryNext()
		if err != nil {
			p.t.Fatal(err)
		}
		if !ok {
			return counts
		}
		var e event.Event
		if err := event.Decode(entry.Data, &e); err != nil {
			p.t.Fatal(err)
		}
		if !e.Kind.Final() {
			continue
		}
		r := recipient{e.MessageID, e.RecipientIdx}
		if before, again := ended[r]; again {
			p.t.Fatalf("%s/%d was %s, and then %s", r.id, r.index, before, e.Kind)
		}
		ended[r] = e.Kind
		counts[e.Kind]++
	}
}

// TestPauseStopsMailThatFlows pauses a queue at work: at the answer no session takes more mail.
func TestPauseStopsMailThatFlows(t *testing.T) {
	s := newSink(t)
	p := operated(t, s)
	p.fill(2000, "a.test", "")
	p.run(func(address string) {
		c := p.client()
		waitFor(t, "mail that flows", func() bool { return s.taken.Load() > 20 })
		give(t, c, admin.Instruction{Kind: orders.Pause, Filter: orders.Filter{Queue: "a.test/*"}, Reason: "test"})
		before := s.taken.Load()
		const sessions = 2 // each may be in a message at that moment
		for range 20 {
			p.send(address, "bob@b.test")
		}
		waitFor(t, "mail of another queue", func() bool {
			return p.ends()[event.Delivered] >= 20+int(before)-sessions && s.taken.Load() >= before+20
		})
		if taken := s.taken.Load(); taken > before+20+sessions {
			t.Errorf("%d messages were taken, %d when the pause was answered", taken-20, before)
		}
		queues, err := c.Queues(t.Context())
		i := slices.IndexFunc(queues, func(q admin.Queue) bool { return q.Name == "a.test/mail1" })
		if err != nil || i < 0 || !queues[i].Paused || !slices.Equal(queues[i].PausedBy, []uint64{1}) || queues[i].OutPerMinute < 20 {
			t.Errorf("the queue is shown as %+v, %v", queues, err)
		}
		e, err := c.Explain(t.Context(), "a.test/mail1")
		if err != nil || len(e.Waits) == 0 || len(e.Orders) != 1 || e.Orders[0].Reason != "test" || len(e.Paths) == 0 {
			t.Errorf("it is explained as %+v, %v", e, err)
		}
		give(t, c, admin.Instruction{Kind: admin.Resume, Filter: orders.Filter{Queue: "a.test/*"}})
		waitFor(t, "the rest", func() bool { return s.taken.Load() >= 2020 })
	})
	if ends := p.ends(); ends[event.Delivered] != 2020 {
		t.Errorf("%d delivered, want 2020", ends[event.Delivered])
	}
}

// TestSourceIsTakenAway disables the only source of a queue at work, and gives it back.
func TestSourceIsTakenAway(t *testing.T) {
	s := newSink(t)
	p := operated(t, s)
	p.fill(2000, "a.test", "")
	p.run(func(address string) {
		c := p.client()
		waitFor(t, "mail that flows", func() bool { return s.taken.Load() > 20 })
		give(t, c, admin.Instruction{Kind: orders.DisableSource, IP: "127.0.0.1", Filter: orders.Filter{Queue: "a.test/*"}})
		before := s.taken.Load()
		const sessions = 2 // each may be in a message at that moment
		waitFor(t, "a queue without a source", func() bool {
			e, err := c.Explain(t.Context(), "a.test/mail1")
			return err == nil && e.Queue.Sessions == 0 && len(e.Waits) > 0 && strings.Contains(e.Waits[0], "All SMTP sources")
		})
		p.send(address, "bob@b.test") // whose queue may use it
		waitFor(t, "mail of another queue", func() bool { return s.taken.Load() > before })
		if taken := s.taken.Load(); taken > before+1+sessions {
			t.Errorf("%d messages were taken, %d when the source was disabled", taken-1, before)
		}
		give(t, c, admin.Instruction{Kind: admin.EnableSource, IP: "127.0.0.1", Filter: orders.Filter{Queue: "*/*"}})
		waitFor(t, "the rest", func() bool { return s.taken.Load() >= 2001 })
	})
}

// TestExplainSaysWhichLimitBinds: a queue that waits for its rate says so, and where that was written.
func TestExplainSaysWhichLimitBinds(t *testing.T) {
	s := newSink(t)
	p := operated(t, s)
	file := filepath.Join(p.dir, "config")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "<domain a.test>\n max-msg-rate 1/h\n</domain>\n"...)
	if p.config, _, err = config.Parse(file, text); err != nil {
		t.Fatal(err)
	}
	p.fill(100, "a.test", "")
	p.run(func(string) {
		c := p.client()
		var e admin.Explanation
		waitFor(t, "a binding limit", func() bool {
			var err error
			e, err = c.Explain(t.Context(), "a.test/mail1")
			return err == nil && slices.ContainsFunc(e.Waits, func(why string) bool { return strings.Contains(why, "for max-msg-rate of queue a.test/mail1") })
		})
		if len(e.Paths) != 1 || e.Paths[0].Source != "127.0.0.1" || e.Paths[0].Provider != "a.test" {
			t.Fatalf("the paths are %+v", e.Paths)
		}
		limits := e.Paths[0].Limits
		i := slices.IndexFunc(limits, func(b admin.Binding) bool { return b.Directive == "max-msg-rate" })
		if i < 0 || !limits[i].Binds || limits[i].Configured != "1/h" || !strings.Contains(limits[i].SetBy, "config:") || limits[i].Next.IsZero() {
			t.Errorf("the limits are %+v", limits)
		}
	})
}

// child is a node in a process of its own.
type child struct{ *exec.Cmd }

func (p *place) start() *child {
	p.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), nodeVariable+"="+filepath.Join(p.dir, "config"))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	c := &child{cmd}
	p.t.Cleanup(func() { _ = c.kill() }) // if the test ends before
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			_, _ = fmt.Fprintln(p.t.Output(), "node:", lines.Text())
		}
	}()
	return c
}

// kill ends the process with SIGKILL and waits for it.
func (c *child) kill() error {
	_ = c.Process.Kill() // or it is dead already, which Wait says
	return c.Wait()
}

// TestDeleteSurvivesKill deletes 20,000 messages and kills the node while it writes their events,
// three times. The pause that kept them stays too.
func TestDeleteSurvivesKill(t *testing.T) {
	messages := 20_000
	if testing.Short() {
		messages = 2_000
	}
	s := newSink(t)
	p := operated(t, s)
	p.fill(messages, "a.test", "june")
	p.fill(100, "a.test", "may")
	store, err := orders.Open(filepath.Join(p.dir, "spool", orders.FileName))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Add(orders.Order{Kind: orders.Pause, Filter: orders.Filter{Queue: "*/*"}, Actor: "test", Made: time.Now()}); err != nil {
		t.Fatal(err)
	}

	node := p.start()
	c := p.client()
	waitFor(t, "the end of recovery", func() bool { // or the node is killed before it has received events of its own
		return p.kinds()[event.Received] == messages+100
	})
	dry := give(t, c, admin.Instruction{Kind: orders.Delete, Filter: orders.Filter{Job: "june"}, DryRun: true})
	began := time.Now()
	r := give(t, c, admin.Instruction{Kind: orders.Delete, Filter: orders.Filter{Job: "june"}, Reason: "wrong price"})
	t.Logf("delete of %d messages answered after %s", r.Messages, time.Since(began))
	if r.Messages != messages || r.Recipients != messages || dry.Messages != messages {
		t.Errorf("deleted %d messages, in the dry run %d; want %d", r.Messages, dry.Messages, messages)
	}
	var written []int // deleted events when the node was killed
	for live := messages + 100; live > 100 && len(written) < 3; {
		waitFor(t, "deleted mail", func() bool {
			status, err := c.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if status.QueuedRecipients != 100 {
				t.Fatalf("%d recipients in the queues, want the 100 that were not deleted", status.QueuedRecipients)
			}
			before := live
			live = status.LiveRecipients
			return live < before || live == 100
		})
		if err := node.kill(); err == nil {
			t.Fatal("the node stopped by itself")
		}
		written = append(written, p.ends()[event.Deleted])
		node = p.start()
		c = p.client()
	}
	t.Logf("killed with %d events written", written)
	if written[0] == messages {
		t.Error("all events were written when the node was killed: it was too late to say anything")
	}
	waitFor(t, "the end of the delete", func() bool {
		all, err := c.Orders(t.Context())
		return err == nil && len(all) == 1 && all[0].Kind == orders.Pause
	})
	if ends := p.ends(); ends[event.Deleted] != messages || len(ends) != 1 || s.taken.Load() != 0 {
		t.Errorf("ends %v, taken %d; want %d deleted and nothing sent", ends, s.taken.Load(), messages)
	}
	give(t, c, admin.Instruction{Kind: admin.Resume, Filter: orders.Filter{Queue: "*/*"}})
	waitFor(t, "the mail that was paused", func() bool { return s.taken.Load() == 100 })
}

// TestRerouteSurvivesKill: mail that was moved goes by the other virtual MTA after a crash too.
func TestRerouteSurvivesKill(t *testing.T) {
	s := newSink(t)
	p := operated(t, s)
	p.fill(100, "a.test", "june")
	store, err := orders.Open(filepath.Join(p.dir, "spool", orders.FileName))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Add(orders.Order{Kind: orders.Pause, Filter: orders.Filter{Domain: "a.test"}, Actor: "test", Made: time.Now()}); err != nil {
		t.Fatal(err)
	}
	node := p.start()
	c := p.client()
	if r := give(t, c, admin.Instruction{Kind: orders.Reroute, Filter: orders.Filter{Queue: "a.test/mail1"}, To: "MAIL2"}); r.Recipients != 100 {
		t.Errorf("rerouted %d recipients, want 100", r.Recipients)
	}
	if err := node.kill(); err == nil {
		t.Fatal("the node stopped by itself")
	}
	p.start()
	c = p.client()
	var queues []admin.Queue
	waitFor(t, "the end of the queue that recovery emptied", func() bool {
		queues, err = c.Queues(t.Context())
		return err != nil || len(queues) == 1
	})
	if err != nil || queues[0].Name != "a.test/mail2" || queues[0].Recipients != 100 {
		t.Errorf("queues %+v, %v; want all of it by mail2", queues, err)
	}
	messages, err := c.Messages(t.Context(), orders.Filter{VMTA: "mail2"}, 7)
	if err != nil || len(messages) != 7 || messages[0].Recipient != "ann@a.test" || messages[0].Job != "june" {
		t.Errorf("listed %+v, %v", messages, err)
	}
	give(t, c, admin.Instruction{Kind: admin.Resume, Filter: orders.Filter{Domain: "a.test"}})
	waitFor(t, "the mail", func() bool { return s.taken.Load() == 100 })
	if n := p.kinds()[event.Rerouted]; n != 100 {
		t.Errorf("%d recipients have rerouted events, want 100", n)
	}
}

// TestDamagedOrdersKeepTheNodeFromStarting: mail that somebody paused must not flow.
func TestDamagedOrdersKeepTheNodeFromStarting(t *testing.T) {
	p := operated(t, newSink(t))
	p.run(func(string) {})
	if err := os.WriteFile(filepath.Join(p.dir, "spool", orders.FileName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), p.config, slog.New(slog.DiscardHandler), func([]string) { t.Error("the node runs") })
	if err == nil {
		t.Error("the node started")
	}
}
