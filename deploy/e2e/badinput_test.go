package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/seglog"
)

// nobody is an address at which nothing listens: port 1 is tcpmux, which has no servers.
const nobody = "127.0.0.1:1"

// TestBadInput gives the binary what is wrong and wants one clear line for each mistake, and exit
// status 2 where something has to be changed before another try makes sense.
func TestBadInput(t *testing.T) {
	busy, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = busy.Close() })
	const node = "host-name a.test\n<spool s>\n</spool>\n<event-log e>\n</event-log>\n"
	for _, tc := range []struct {
		name   string
		args   string
		files  map[string]string
		status int
		lines  []string // of standard error: regular expressions
	}{
		{
			name: "no subcommand that exists", args: "frobnicate",
			status: exitConfig, lines: []string{`^carom: unknown subcommand "frobnicate" \(see carom help\)$`},
		},
		{
			name: "unknown flag", args: "sender --frob",
			status: exitConfig, lines: []string{`^carom sender: .*-frob \(see carom sender --help\)$`},
		},
		{
			name: "unknown directive", args: "sender -c bad.conf",
			files:  map[string]string{"bad.conf": "host-name a.test\n<domain *>\n    max-smtp-oot 5\n</domain>\n"},
			status: exitConfig, lines: []string{`^carom: \S*bad\.conf:3:5: unknown directive "max-smtp-oot"; did you mean "max-smtp-out"\?$`},
		},
		{
			name: "bad value", args: "sender -c bad.conf",
			files:  map[string]string{"bad.conf": "host-name a.test\n<domain *>\n    retry-after 5q\n</domain>\n"},
			status: exitConfig, lines: []string{`^carom: \S*bad\.conf:3:17: retry-after: bad time "5q"`},
		},
		{
			name: "two mistakes", args: "sender -c bad.conf",
			files:  map[string]string{"bad.conf": "host-name a b\nfrobnicate yes\n"},
			status: exitConfig, lines: []string{`bad\.conf:1:\d+: host-name: `, `bad\.conf:2:1: unknown directive "frobnicate"`},
		},
		{
			name: "no configuration", args: "sender -c nowhere.conf",
			status: exitConfig, lines: []string{`^carom: \S*nowhere\.conf: no such file`},
		},
		{
			name: "no key", args: "sender -c node.conf",
			files:  map[string]string{"node.conf": node + "domain-key k,a.test,nokey.pem\n"},
			status: exitConfig, lines: []string{`^carom: \S*node\.conf:6:12: domain-key: \S*nokey\.pem: no such file`},
		},
		{
			name: "key that is none", args: "sender -c node.conf",
			files:  map[string]string{"node.conf": node + "domain-key k,a.test,key.pem\n", "key.pem": "hello\n"},
			status: exitConfig, lines: []string{`^carom: \S*node\.conf:6:12: domain-key: \S*key\.pem: `},
		},
		{
			name: "SMTP port in use", args: "sender -c node.conf",
			files:  map[string]string{"node.conf": node + "smtp-listener " + busy.Addr().String() + "\n"},
			status: exitConfig, lines: []string{`^carom: \S*node\.conf:6:\d+: smtp-listener ` + regexp.QuoteMeta(busy.Addr().String()) + `: .*in use`},
		},
		{
			name: "DNS port in use", args: "receivers --scenario demo --dns " + busy.Addr().String(),
			status: exitConfig, lines: []string{regexp.QuoteMeta(busy.Addr().String()) + `.*in use`},
		},
		{
			name: "HTTP port of ClickHouse in use", args: "clickhouse --path d --listen " + busy.Addr().String(),
			status: exitConfig, lines: []string{`^carom: .*` + regexp.QuoteMeta(busy.Addr().String()) + `.*in use`},
		},
		{
			name: "text in place of the engine library", args: "clickhouse --path d --listen 127.0.0.1:0 --engine-lib lib.so",
			files:  map[string]string{"lib.so": "hello, I am a file of text and by no means a library of any kind, sorry for that\n"},
			status: exitConfig, lines: []string{`^carom: engine library \S*lib\.so: not a usable libchdb: `},
		},
		{
			name: "no engine library", args: "clickhouse --path d --listen 127.0.0.1:0 --engine-lib nowhere.so",
			status: exitConfig, lines: []string{`^carom: engine library .*nowhere\.so`},
		},
		{
			name: "carom up without an engine library", args: "up --dir d --engine-lib lib.so --listen " + freeAddress(t) + " --smtp " + freeAddress(t),
			files:  map[string]string{"lib.so": "no library\n"},
			status: exitConfig, lines: []string{`^engine +\| carom: engine library `, `^carom: engine: engine library \S*lib\.so: not a usable libchdb: `},
		},
		{
			name: "ClickHouse refuses, schema", args: "schema apply --url http://" + nobody + "/carom",
			status: 1, lines: []string{`^carom: ClickHouse at ` + nobody + ` refuses the connection`},
		},
		{
			name: "ClickHouse refuses, limits", args: "limits list --url http://" + nobody + "/carom",
			status: 1, lines: []string{`^carom: ClickHouse at ` + nobody + ` refuses the connection`},
		},
		{
			name: "ClickHouse refuses, analytics", args: "analytics run throttle --url http://" + nobody + "/carom",
			status: 1, lines: []string{`^carom: ClickHouse at ` + nobody + ` refuses the connection`},
		},
		{
			name: "no job that exists", args: "analytics run frob",
			status: exitConfig, lines: []string{`^carom analytics run: .*"frob": want throttle, suppression, attribution, reputation, holds, webhook, change-webhook, rollups or completeness`},
		},
		{
			name: "policy that is none", args: "analytics run throttle --policy policy.yaml --url http://" + nobody + "/carom",
			files:  map[string]string{"policy.yaml": "mode: active\nmod: advise\n"},
			status: exitConfig, lines: []string{`^carom: .*policy\.yaml.*2.*mod`},
		},
		{
			name: "scenario with an unknown field", args: "receivers --scenario bad.json",
			files:  map[string]string{"bad.json": "{\n  \"version\": 1,\n  \"sead\": 5\n}\n"},
			status: exitConfig, lines: []string{`^carom: bad\.json.*sead`},
		},
		{
			name: "scenario that is no JSON", args: "load mail --to 127.0.0.1:2 --scenario bad.json",
			files:  map[string]string{"bad.json": "{\n  \"version\": 1,,\n}\n"},
			status: exitConfig, lines: []string{`^carom: bad\.json.*2.*: `},
		},
		{
			name: "load to a stranger", args: "load mail --to 192.0.2.1:25 --scenario demo",
			status: exitConfig, lines: []string{`^carom load mail: .*192\.0\.2\.1 is not on this machine`},
		},
		{
			name: "demo too small to say anything", args: "demo --messages 5",
			status: exitConfig, lines: []string{`^carom demo: --messages 5: `},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range tc.files {
				write(t, filepath.Join(dir, name), text)
			}
			args := strings.Fields(tc.args)
			if args[0] == "clickhouse" && !strings.Contains(tc.args, "--engine-lib") {
				args = append(args, "--engine-lib", engineLibrary(t))
			}
			stdout, stderr, status := run(t, dir, args...)
			if status != tc.status || stdout != "" {
				t.Errorf("carom %s: exit status %d, output %q; want %d and none", tc.args, status, stdout, tc.status)
			}
			lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
			if len(lines) != len(tc.lines) {
				t.Fatalf("carom %s says in %d lines, want %d:\n%s", tc.args, len(lines), len(tc.lines), stderr)
			}
			for i, want := range tc.lines {
				if !regexp.MustCompile(want).MatchString(lines[i]) {
					t.Errorf("carom %s says\n  %s\nwant\n  %s", tc.args, lines[i], want)
				}
			}
		})
	}
}

// TestBadEngineLibrary gives a library that can be loaded and is another.
func TestBadEngineLibrary(t *testing.T) {
	var other string
	for _, pattern := range []string{"/lib/*/libm.so.6", "/lib64/libm.so.6", "/usr/lib/libm.so.6"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			other = found[0]
		}
	}
	if other == "" {
		t.Skip("needs a shared library that is not the engine: this machine has no libm.so.6")
	}
	_, stderr, status := run(t, t.TempDir(), "clickhouse", "--path", "d", "--listen", "127.0.0.1:0", "--engine-lib", other)
	want := "carom: engine library " + other + ": not a usable libchdb: "
	if status != exitConfig || !strings.HasPrefix(stderr, want) || strings.Count(stderr, "\n") != 1 {
		t.Errorf("exit status %d, standard error:\n%s\nwant %d and one line that begins %q", status, stderr, exitConfig, want)
	}
}

// TestAgentWaits starts an agent whose ClickHouse refuses the connection: it says so in one line
// and goes on.
func TestAgentWaits(t *testing.T) {
	dir := t.TempDir()
	smtp := startNode(t, dir)
	handOver(t, smtp, "<>", "postmaster@"+bounceDomain, "Subject: hello\r\n\r\nThis makes events to ship.\r\n")

	ctx, cancel := context.WithTimeout(t.Context(), runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, carom, "ingest", "agent", "--node", nodeName, "--event-log", "events", "--feed", "feed", "--url", "http://"+nobody+"/carom")
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var complaints []string
	var all strings.Builder
	listen := time.AfterFunc(4*time.Second, cancel) // by then each of its tasks has failed
	defer listen.Stop()
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		all.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "level=WARN") || strings.Contains(lines.Text(), "level=ERROR") {
			complaints = append(complaints, lines.Text())
		}
	}
	if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("the agent ended with %v; want it to wait until it is told to stop", err)
	}
	if len(complaints) != 1 || !strings.Contains(complaints[0], "ClickHouse at "+nobody+" refuses the connection") {
		t.Errorf("the agent complains in %d lines, want one that says that ClickHouse at %s refuses the connection; it wrote:\n%s",
			len(complaints), nobody, all.String())
	}
}

// TestMalformedReport sends what is no report, or half of one, to the address for bounces: it is
// taken with 250 and written down, and suppresses nobody.
func TestMalformedReport(t *testing.T) {
	const head = "From: MAILER-DAEMON@mx.example\r\nTo: postmaster@" + bounceDomain + "\r\nMIME-Version: 1.0\r\n"
	dir := t.TempDir()
	smtp := startNode(t, dir)
	messages := []struct{ name, text string }{
		{"plain text", head + "Subject: Undelivered\r\n\r\nIt did not work.\r\n"},
		{"no boundary", head + "Content-Type: multipart/report; report-type=delivery-status\r\n\r\n--b\r\n\r\nhello\r\n"},
		{"no end", head + "Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\n\r\nhello\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA"},
		{"no recipient", head + "Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n\r\n--b--\r\n"},
		{"bytes", head + "Content-Type: multipart/report; report-type=feedback-report; boundary=\"\xff\x00\"\r\n\r\n\x00\xff\x80\r\n"},
		{"nothing", ""},
	}
	for _, m := range messages {
		if reply := handOver(t, smtp, "<>", "postmaster@"+bounceDomain, m.text); !strings.HasPrefix(reply, "250") {
			t.Errorf("%s: got %q, want 250", m.name, reply)
		}
	}
	reader, err := seglog.OpenReader(filepath.Join(dir, "events", event.StreamEvent), 1, seglog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	kinds := map[event.Kind]int{}
	await(t, 10*time.Second, "one end for each message", func(context.Context) error {
		for {
			entry, ok, err := reader.TryNext()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			var e event.Event
			if err := event.Decode(entry.Data, &e); err != nil {
				return err
			}
			kinds[e.Kind]++
			if e.MatchConfidence > 0 || e.RecipientKey != "" && e.Kind == event.RemoteBounce {
				t.Errorf("%s of %q matches by %s", e.Kind, e.Recipient, e.MatchMethod)
			}
		}
		if kinds[event.ReportConsumed] < len(messages) {
			return fmt.Errorf("events: %v", kinds)
		}
		return nil
	})
	if kinds[event.Received] != len(messages) || kinds[event.ReportConsumed] != len(messages) || kinds[event.Complaint] != 0 {
		t.Errorf("events: %v; want %d received, all consumed, and no complaint", kinds, len(messages))
	}
}
