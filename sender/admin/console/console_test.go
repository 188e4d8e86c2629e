package console

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carom/schemas/service"
	"carom/sender/admin"
	"carom/sender/orders"
)

// node answers what a node might, and writes down what it was told.
type node struct {
	told []string
	last admin.Instruction
	bad  bool // the configuration has a mistake
	err  error
}

func (n *node) Reload(context.Context, string) (*admin.Reloaded, error) {
	if n.bad {
		return nil, service.Configf("config:3:1: unknown directive %q", "x")
	}
	return &admin.Reloaded{Hash: "00000000000000ff", Restart: []string{"<spool>", "smtp-listener"}, Warnings: []string{"config:2:1: careful"}}, nil
}

func (n *node) Status() admin.Status { return admin.Status{Node: "mx.test"} }

func (n *node) Queues() []admin.Queue {
	return []admin.Queue{
		{Name: "b.test/mail1", Recipients: 5, Mode: "normal", Sessions: 2, InPerMinute: 7, OutPerMinute: 90},
		{Name: "a.test/mail1", Recipients: 1200, Mode: "backoff", DeferredUntil: time.Now().Add(time.Hour), NextTry: time.Now().Add(time.Hour), Why: "max-msg-rate 100/m", OldestArrival: time.Now().Add(-2 * time.Hour)},
		{Name: "c.test/mail2", Recipients: 30, Mode: "normal", Paused: true, PausedBy: []uint64{12}},
		{Name: "evil\x1b[2J.test/mail1", Mode: "normal"},
	}
}

func (n *node) Messages(f orders.Filter, limit int) ([]admin.Message, error) {
	n.told = append(n.told, fmt.Sprintf("messages %s, %d, %t", f, limit, f.ArrivedBefore.IsZero()))
	return []admin.Message{{ID: "0190", Queue: "a.test/mail1", Recipient: "ann@a.test", MailFrom: "news@shop.test", Job: "june", Arrived: time.Now().Add(-time.Hour)}}, n.err
}

func (n *node) Explain(queue string) (*admin.Explanation, error) {
	if queue != "a.test/mail1" {
		return nil, admin.ErrNoQueue
	}
	return &admin.Explanation{
		Queue: n.Queues()[1], Waits: []string{"until 13:00: max-msg-rate 100/m", "backoff mode: 421 too many"}, Orders: n.Orders()[:1],
		Paths: []admin.Path{{Provider: "google", Source: "192.0.2.1", Limits: []admin.Binding{
			{Scope: "queue", Name: queue, Directive: "max-smtp-out", Configured: "20", InForce: "20", Used: "3", SetBy: "config:12"},
			{Scope: "key", Directive: "rate", Configured: "10/s", InForce: "2/s", SetBy: "loop", Reason: "BACKOFF 77", Binds: true},
		}}},
	}, nil
}

func (n *node) Orders() []admin.Order {
	return []admin.Order{
		{Order: orders.Order{ID: 12, Kind: orders.Pause, Filter: orders.Filter{Queue: "a.test/*"}, Actor: "ann", Reason: "ticket 81", Made: time.Now().Add(-time.Hour), Expires: time.Now().Add(time.Hour)}},
		{Order: orders.Order{ID: 13, Kind: orders.Delete, Filter: orders.Filter{Job: "june"}, Actor: "bob", Made: time.Now()}, Left: 77},
	}
}

func (n *node) Give(_ context.Context, i admin.Instruction, actor string) (*admin.Result, error) {
	n.last = i
	n.told = append(n.told, fmt.Sprintf("%s|%s|%s%s%s|%s", i.Kind, i.Filter, i.To, i.Mode, i.IP, i.Reason))
	order := orders.Order{ID: 14, Kind: i.Kind, Filter: i.Filter, To: i.To, Mode: i.Mode, Actor: actor, Expires: i.Expires}
	r := &admin.Result{DryRun: i.DryRun, Queues: 3, Messages: 1, Recipients: 2, Order: &order}
	if i.DryRun || i.Kind == admin.Resume || i.Kind == admin.EnableSource {
		r.Order = nil
	}
	if i.Kind == admin.Resume {
		r.Ended = []orders.Order{n.Orders()[0].Order}
	}
	return r, n.err
}

func (n *node) End(_ context.Context, id uint64, _ string) (*orders.Order, error) {
	if id != 12 {
		return nil, fmt.Errorf("order %d: %w", id, orders.ErrUnknown)
	}
	return &n.Orders()[0].Order, nil
}

func (n *node) Schedule(_ context.Context, pattern, _ string) (int, error) {
	n.told = append(n.told, "schedule "+pattern)
	return 4, nil
}

// start runs a node's socket and returns its path. It is in a folder with a short name: see unix(7).
func start(t *testing.T, n *node) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "console") //nolint:usetesting // the test's own folder may be too long
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "admin.sock")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	socket, err := admin.Open(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- socket.Serve(ctx, n, n, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return path
}

// run runs "carom queue" or "carom source" with the words of line, which have no blanks in them but
// where _ stands for one.
func run(t *testing.T, socket, line string) (out string, err error) {
	t.Helper()
	words := strings.Fields(line)
	for i := range words {
		words[i] = strings.ReplaceAll(words[i], "_", " ")
	}
	args := words[1:]
	if socket != "" {
		args = append(args, "--socket", socket)
	}
	var b bytes.Buffer
	stdio := service.IO{In: strings.NewReader(""), Out: &b, Err: t.Output()}
	if words[0] == "source" {
		err = SourceCommand(t.Context(), args, stdio)
	} else {
		err = QueueCommand(t.Context(), args, stdio)
	}
	return b.String(), err
}

func TestCommands(t *testing.T) {
	n := &node{}
	socket := start(t, n)
	for _, tc := range []struct {
		line string
		told string
		says []string
	}{
		{"queue pause Gmail.com --reason ticket_81", "pause|queue Gmail.com/*||ticket 81", []string{"Queue(s) paused.\nOrder 14: 2 recipients of 1 message in 3 queues, until it is resumed.\n"}},
		{"queue pause --queue a.test/mail1 --expires 2h", "pause|queue a.test/mail1||", []string{"Queue(s) paused.", ", until 20"}},
		{"queue pause --job june", "pause|job june||", []string{"paused job.\n"}},
		{"queue pause --tenant shop --domain A.test --vmta mail1 --dry-run", "pause|tenant shop domain a.test vmta mail1||", []string{"Would pause 2 recipients of 1 message in 3 queues. Nothing was changed.\n"}},
		{"queue resume a.test/*", "resume|queue a.test/*||", []string{"Queue(s) resumed.\nOrder 12 ended: pause queue a.test/*"}},
		{"queue resume * --dry-run", "resume|queue */*||", []string{"Would end 1 order.\n  order 12: pause", "Nothing was changed."}},
		{"queue resume --order 12", "", []string{"Order 12 ended: pause queue a.test/*"}},
		{"queue delete --job june --older-than 1d", "delete|job june||", []string{"Order 14: 2 recipients of 1 message in 3 queues deleted."}},
		{"queue reroute a.test/mail1 --to mail2", "reroute|queue a.test/mail1|mail2|", []string{"Order 14: ", " rerouted.\n"}},
		{"queue set-mode backoff a.test", "set-mode|queue a.test/*|backoff|", []string{"Order 14: 3 queues met; set-mode backoff queue a.test/*"}},
		{"queue set-mode backoff a.test --dry-run", "set-mode|queue a.test/*|backoff|", []string{"Would meet 3 queues. Nothing was changed.\n"}},
		{"queue schedule a.test", "schedule a.test/*", []string{"4 matching queues scheduled.\n"}},
		{"queue list --job june --max 1", "messages job june, 1, true", []string{"RECIPIENT", "ann@a.test  a.test/mail1  news@shop.test  june", "1 recipient shown. There may be more (--max).\n"}},
		{"queue list --older-than 90m", "messages , 100, false", []string{"1 recipient shown.\n"}},
		{"queue holds", "", []string{"ORDER", "12     pause queue a.test/*", "ann", "in 1h", "ticket 81", "delete job june (77 left)"}},
		{"queue explain a.test/mail1", "", []string{
			"a.test/mail1: 1200 recipients, 0 due, 0 sessions, backoff mode", "Waits: until 13:00: max-msg-rate 100/m\n   and backoff mode: 421 too many\n",
			"Orders\nORDER", "Limits from 192.0.2.1 to google\n", "> key", "loop", "BACKOFF 77", "config:12",
		}},
		{"source disable 192.0.2.1 gmail.com --for 6h --reason x", "disable-source|queue gmail.com/*|192.0.2.1|x", []string{"Source disabled.\nOrder 14: "}},
		{"source disable 192.0.2.1", "disable-source|queue */*|192.0.2.1|", []string{"Source disabled.\n"}},
		{"source enable 192.0.2.1 gmail.com/mail1", "enable-source|queue gmail.com/mail1|192.0.2.1|", []string{"Source enabled.\n"}},
		{"source list", "", []string{"No order is in force.\n"}},
	} {
		t.Run(tc.line, func(t *testing.T) {
			n.told, n.last = nil, admin.Instruction{}
			out, err := run(t, socket, tc.line)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(n.told, "\n"); got != tc.told {
				t.Errorf("the node was told %q, want %q", got, tc.told)
			}
			for _, want := range tc.says {
				if !strings.Contains(out, want) {
					t.Errorf("it says\n%swant %q", out, want)
				}
			}
			if n.last.DryRun != strings.Contains(tc.line, "--dry-run") || n.last.Expires.IsZero() == (strings.Contains(tc.line, "--expires") || strings.Contains(tc.line, "--for")) {
				t.Errorf("the instruction is %+v", n.last)
			}
		})
	}
}

func TestReloadCommand(t *testing.T) {
	reload := func(n *node, args ...string) (string, int) {
		var out bytes.Buffer
		err := ReloadCommand(t.Context(), append(args, "--socket", start(t, n)), service.IO{Out: &out, Err: &out})
		if err != nil {
			fmt.Fprintln(&out, err)
		}
		return out.String(), service.ExitStatus(err)
	}
	const want = `warning: config:2:1: careful
Configuration reloaded.
It is the same as before.
Not before the node is started again: <spool>, smtp-listener
`
	if out, status := reload(&node{}); out != want || status != 0 {
		t.Errorf("reload = %d\n%swant\n%s", status, out, want)
	}
	if out, status := reload(&node{}, "--json"); status != 0 || !strings.Contains(out, `"hash": "00000000000000ff"`) {
		t.Errorf("reload --json = %d\n%s", status, out)
	}
	if out, status := reload(&node{bad: true}); status != 2 || !strings.Contains(out, `carom reload: config:3:1: unknown directive "x"`) {
		t.Errorf("reload of a bad file = %d\n%s", status, out)
	}
	if out, status := reload(&node{}, "more"); status != 2 {
		t.Errorf("reload more = %d\n%s", status, out)
	}
}

func TestTop(t *testing.T) {
	socket := start(t, &node{})
	for _, tc := range []struct {
		line string
		want []string // first words of the lines between head and count
	}{
		{"queue top", []string{"a.test/mail1", "c.test/mail2", "b.test/mail1", "evil?[2J.test/mail1"}},
		{"queue top --sort out --max 1", []string{"b.test/mail1"}},
		{"queue top */mail1 --sort name --mode normal", []string{"b.test/mail1", "evil?[2J.test/mail1"}},
		{"queue top nothing.test", nil},
	} {
		t.Run(tc.line, func(t *testing.T) {
			out, err := run(t, socket, tc.line)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(out), "\n")
			got := make([]string, 0, len(tc.want))
			for _, line := range lines[1 : len(lines)-1] {
				got = append(got, strings.Fields(line)[0])
			}
			if strings.Join(got, " ") != strings.Join(tc.want, " ") || !strings.HasSuffix(out, " matching queues.\n") {
				t.Errorf("got\n%swant %q", out, tc.want)
			}
			if strings.Contains(out, "\x1b") {
				t.Errorf("it commands the terminal: %q", out)
			}
		})
	}
	out, err := run(t, socket, "queue top --max 3")
	for _, want := range []string{"in 1h", "max-msg-rate 100/m", "paused, order 12", "backoff", "2h", "3 of 4 matching queues.\n"} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%v; got\n%swant %q", err, out, want)
		}
	}
}

func TestTopStaysInItsPlace(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	looks := 0
	var out bytes.Buffer
	err := repeat(ctx, &out, func(w io.Writer) error {
		if looks++; looks == 2 {
			cancel()
		}
		_, err := fmt.Fprintf(w, "look %d\n", looks)
		return err
	})
	if want := "\x1b[H\x1b[2Jlook 1\n\x1b[H\x1b[2Jlook 2\n"; err != nil || out.String() != want {
		t.Errorf("%v; got %q, want %q", err, out.String(), want)
	}
}

func TestJSON(t *testing.T) {
	socket := start(t, &node{})
	for _, line := range []string{
		"queue top --json", "queue list --json", "queue pause a.test --json", "queue resume --order 12 --json", "queue set-mode normal a.test --json",
		"queue explain a.test/mail1 --json", "queue schedule * --json", "queue holds --json", "source disable 192.0.2.1 --json", "source list --json",
	} {
		out, err := run(t, socket, line)
		if err != nil || !json.Valid([]byte(out)) {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
	out, err := run(t, socket, "queue top --max 1 --json")
	var queues []admin.Queue
	if err != nil || json.Unmarshal([]byte(out), &queues) != nil || len(queues) != 1 || queues[0].Name != "a.test/mail1" {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestMistakes(t *testing.T) {
	n := &node{}
	socket := start(t, n)
	for _, tc := range []struct {
		line   string
		err    error // of the node
		status int
		want   string
	}{
		{"queue nothing", nil, 2, "unknown, want top, list, pause"},
		{"queue pause a b", nil, 2, `unexpected argument "b"`},
		{"queue pause a --queue b", nil, 2, "which?"},
		{"queue pause --older-than soon", nil, 2, "older-than"},
		{"queue pause --older-than 0s", nil, 2, "more than 0"},
		{"queue reroute a.test", nil, 2, "where to?"},
		{"queue set-mode a.test", nil, 2, "want a mode"},
		{"queue explain", nil, 2, "want one queue"},
		{"queue explain b.test/mail1", nil, 1, "no such queue now"},
		{"queue schedule", nil, 2, "want one queue"},
		{"queue resume a.test --order 12", nil, 2, "--order names all"},
		{"queue resume --order 13", nil, 1, "no such order is in force"},
		{"queue top --sort size", nil, 2, "--sort"},
		{"queue top --mode fast", nil, 2, "--mode"},
		{"queue holds x", nil, 2, "unexpected"},
		{"source disable mail1", nil, 2, "no IP address"},
		{"source enable", nil, 2, "want an address"},
		{"source list x", nil, 2, "unexpected"},
		{"queue pause", &orders.InvalidError{Text: "pause what?"}, 2, "carom queue pause: pause what?"},
		{"queue delete --job x", fmt.Errorf("the disk is full"), 1, "carom queue delete: the disk is full"},
	} {
		t.Run(tc.line, func(t *testing.T) {
			n.err = tc.err
			out, err := run(t, socket, tc.line)
			if service.ExitStatus(err) != tc.status || err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "carom ") {
				t.Errorf("%v (status %d), want status %d with %q", err, service.ExitStatus(err), tc.status, tc.want)
			}
			if out != "" {
				t.Errorf("it says %q", out)
			}
		})
	}
}

func TestWhereTheNodeIs(t *testing.T) {
	n := &node{}
	socket := start(t, n)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good", fmt.Sprintf("host-name mx.test\n<admin %s>\n</admin>\n", socket))
	if out, err := run(t, "", "queue schedule * -c "+good); err != nil || out == "" {
		t.Errorf("by its configuration: %q, %v", out, err)
	}
	for _, tc := range []struct {
		name, line string
		status     int
		want       string
	}{
		{"no configuration", "queue holds -c " + filepath.Join(dir, "none"), 2, "--socket PATH"},
		{"no node", "queue holds --socket " + filepath.Join(dir, "none.sock"), 1, "no node runs at the socket " + filepath.Join(dir, "none.sock")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := run(t, "", tc.line); service.ExitStatus(err) != tc.status || err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v (status %d), want status %d with %q", err, service.ExitStatus(err), tc.status, tc.want)
			}
		})
	}
}

func TestHelpTeaches(t *testing.T) {
	for _, c := range []*command{&queueCommand, &sourceCommand} {
		for _, v := range c.verbs {
			out, err := run(t, "", c.name+" "+v.name+" --help")
			if err != flag.ErrHelp { //nolint:errorlint // exactly this one, which main knows
				t.Fatalf("%s %s: %v", c.name, v.name, err)
			}
			for _, want := range []string{"carom " + c.name + " " + v.name + " " + v.usage + "\n", v.about, "Example:\n  carom " + c.name + " " + v.name, "--socket PATH"} {
				if !strings.Contains(out, want) {
					t.Errorf("the help of %s %s lacks %q:\n%s", c.name, v.name, want, out)
				}
			}
		}
	}
}
