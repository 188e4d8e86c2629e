// Package e2e tests carom as a whole: the real binary in processes of its own, on loopback
// addresses and free ports, one file a scenario.
//
// TestMain builds the binary once, with the race detector if the tests have it: a race in any of
// the processes fails the test. What a scenario needs of ClickHouse is the embedded engine;
// without its library those tests are skipped and say so, or fail with CAROM_REQUIRE_ENGINE=1.
// Nothing waits by sleeping: conditions are polled, with a deadline. Processes end with the test
// that started them, also when it is killed.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/deploy/receivers"
	"carom/deploy/receivers/provider"
	"carom/deploy/receivers/reports"
	"carom/deploy/up"
	"carom/deploy/up/supervise"
	"carom/schemas/service"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/engine"
	"carom/sender/admin"
)

// carom is the path of the binary that TestMain built.
var carom string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "carom-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	carom = filepath.Join(dir, "carom")
	args := []string{"build", "-o", carom}
	if withRace {
		args = append(args, "-race")
	}
	if output, err := exec.Command("go", append(args, "carom")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build carom: %v\n%s", err, output)
		return 1
	}
	return m.Run()
}

// The names in the configuration of a system.
const (
	nodeName     = "node.sender.test"
	fromDomain   = "sender.test"
	bounceDomain = "bounces.sender.test"
	complaintsTo = "fbl@sender.test"
	// reporterDomain signs feedback reports that need no token. It has no key that could be found.
	reporterDomain = "fbl.reporter.test"
	job            = "e2e"

	// sessionsPerDomain is max-smtp-out: the attempts that a domain has in flight at most.
	sessionsPerDomain = 6
)

// configData is what a configuration depends on.
type configData struct {
	SMTP, DNS, HTTP          string // addresses
	SMTPPort, Sessions, Rate int
}

// configText is a node that sends to the simulated receivers as fast as they take mail.
var configText = template.Must(template.New("node").Parse(`host-name ` + nodeName + `
smtp-listener {{.SMTP}}
name-server {{.DNS}}
default-smtp-port {{.SMTPPort}}
<source 127.0.0.1>
    always-allow-relaying yes
    process-x-job yes
    tenant-header X-Tenant
    default-virtual-mta mail
</source>
<virtual-mta mail>
    smtp-source-host 127.0.0.2 mail.` + nodeName + `
</virtual-mta>
<domain *>
    bounce-domain ` + bounceDomain + `
    max-smtp-out {{.Sessions}}
    max-msg-rate {{.Rate}}/s
    max-msg-per-connection 50
    connection-idle-timeout 2s
    retry-after 1s
    retry-recipients-after 2s
    bounce-after 1h
</domain>
<bounce-processor>
    <address-list>
        domain ` + bounceDomain + `
    </address-list>
</bounce-processor>
<feedback-loop-processor>
    <address-list>
        address ` + complaintsTo + `
    </address-list>
    trust-dkim-domain ` + reporterDomain + `
</feedback-loop-processor>
reference-key 1,keys/reference.key
<spool spool>
</spool>
<event-log events>
</event-log>
<feed feed>
    suppression-key-file keys/suppression.key
</feed>
<event-stream http://{{.HTTP}}>
    batch-interval 1s
</event-stream>
<admin admin.sock>
</admin>
`))

// system is carom up with the receivers that it sends to.
type system struct {
	dir        string
	smtp, http string // addresses of the node and of ClickHouse
	receivers  receivers.Addresses
	supervisor *supervise.Supervisor
	admin      *http.Client
	conn       driver.Conn // to ClickHouse
}

// startSystem starts the receivers with a scenario, in which {{reports}} stands for where reports
// go, then carom up with a limit for each domain in messages a second, and returns when all
// answers.
func startSystem(t *testing.T, scenario string, rate int) *system {
	t.Helper()
	y := &system{dir: t.TempDir(), smtp: freeAddress(t), http: freeAddress(t), supervisor: newSupervisor(t)}
	library := engineLibrary(t)
	y.startReceivers(t, scenario)
	writeConfig(t, y.dir, configData{SMTP: y.smtp, HTTP: y.http, DNS: y.receivers.DNS, SMTPPort: y.receivers.SMTPPort, Rate: rate})
	write(t, filepath.Join(y.dir, "policy.yaml"), "mode: active\n")
	y.admin = adminClient(filepath.Join(y.dir, "admin.sock"))
	err := y.supervisor.Start(t.Context(), supervise.Process{
		Name: "up", Path: carom, StartTimeout: time.Minute, Ready: y.ready,
		Args: []string{"up", "--dir", y.dir, "-c", filepath.Join(y.dir, "carom.conf"), "--policy", filepath.Join(y.dir, "policy.yaml"), "--engine-lib", library},
	})
	if err != nil {
		t.Fatalf("carom up: %v", err)
	}
	if y.conn, err = warehouse.Open(t.Context(), "http://"+y.http+"/carom", warehouse.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = y.conn.Close() }) // only read
	return y
}

// newSupervisor returns a supervisor for the processes of a test. Their last lines are shown if
// the test fails, which a data race in one of them makes it do.
func newSupervisor(t *testing.T) *supervise.Supervisor {
	t.Helper()
	log := new(tail)
	s := supervise.New(supervise.Options{Log: slog.New(slog.DiscardHandler), Line: log.line})
	t.Cleanup(func() {
		s.Stop()
		if log.race {
			t.Error("a process has a data race")
		}
		if t.Failed() {
			t.Logf("last lines of the processes:\n%s", log)
		}
	})
	return s
}

// ready returns nil when the node and ClickHouse with its tables answer.
func (y *system) ready(ctx context.Context) error {
	if _, err := y.status(ctx); err != nil {
		return err
	}
	var ok string
	return getJSON(ctx, http.DefaultClient, "http://"+y.http+"/?database=carom&query="+
		"SELECT+toJSONString(toString(count()))+FROM+completeness+FORMAT+TSVRaw", &ok)
}

func (y *system) startReceivers(t *testing.T, scenario string) {
	t.Helper()
	file, ready := filepath.Join(y.dir, "scenario.json"), filepath.Join(y.dir, "receivers.json")
	target := "smtp://" + y.smtp + "/" + complaintsTo
	write(t, file, strings.ReplaceAll(scenario, "{{reports}}", target))
	err := y.supervisor.Start(t.Context(), supervise.Process{
		Name: "receivers", Path: carom, Once: true,
		Args: []string{
			"receivers", "--scenario", file, "--ready-file", ready, "--accept-log", filepath.Join(y.dir, "accepted.ndjson"),
			"--start-on-first-message",
		},
		Ready: func(context.Context) error { _, err := os.Stat(ready); return err },
	})
	if err != nil {
		t.Fatalf("carom receivers: %v", err)
	}
	data, err := os.ReadFile(ready)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &y.receivers); err != nil {
		t.Fatalf("%s: %v", ready, err)
	}
}

// unlimited is a rate that no receiver here reaches.
const unlimited = 1000

// writeConfig writes a configuration and its keys into dir.
func writeConfig(t *testing.T, dir string, data configData) {
	t.Helper()
	for _, key := range []string{"reference.key", "suppression.key"} {
		if err := up.WriteKey(filepath.Join(dir, "keys", key)); err != nil {
			t.Fatal(err)
		}
	}
	data.Sessions = sessionsPerDomain
	var text bytes.Buffer
	if err := configText.Execute(&text, data); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "carom.conf"), text.String())
}

// status returns the counts of the node.
func (y *system) status(ctx context.Context) (admin.Status, error) {
	var s admin.Status
	return s, getJSON(ctx, y.admin, "http://node/v1/status", &s)
}

// receiverStats is what the receivers counted.
type receiverStats struct {
	Reports reports.Counts `json:"reports"`
	Rows    []provider.Row `json:"rows"`
}

func (y *system) receiverStats(ctx context.Context) (receiverStats, error) {
	var s receiverStats
	return s, getJSON(ctx, http.DefaultClient, "http://"+y.receivers.HTTP+"/stats", &s)
}

// accepted returns how many recipients the receivers took so far.
func (y *system) accepted(ctx context.Context) (int, error) {
	s, err := y.receiverStats(ctx)
	n := 0
	for _, row := range s.Rows {
		n += row.OK
	}
	return n, err
}

// awaitRest waits until nothing is queued, no report is under way and ClickHouse has every record.
func (y *system) awaitRest(t *testing.T, atMost time.Duration) {
	t.Helper()
	var last admin.Status
	await(t, atMost, "nothing queued, no report under way, everything shipped", func(ctx context.Context) error {
		now, err := y.status(ctx)
		if err != nil {
			return err
		}
		before := last
		last = now
		if now.LiveRecipients != 0 || now.EventSeq != before.EventSeq {
			return fmt.Errorf("%d recipients live, event %d after %d", now.LiveRecipients, now.EventSeq, before.EventSeq)
		}
		stats, err := y.receiverStats(ctx)
		if err != nil || stats.Reports.Pending != 0 {
			return fmt.Errorf("%d reports pending (%w)", stats.Reports.Pending, err)
		}
		var events, gauges, queues, notes uint64
		err = y.conn.QueryRow(ctx, `SELECT maxIf(last_seq, stream = 'event'), maxIf(last_seq, stream = 'gauge'),
    maxIf(last_seq, stream = 'queue_gauge'), maxIf(last_seq, stream = 'annotation')
FROM completeness`).Scan(&events, &gauges, &queues, &notes)
		if err != nil {
			return err
		}
		if events < now.EventSeq || gauges < now.GaugeSeq || queues < now.QueueGaugeSeq || notes < now.AnnotationSeq {
			return fmt.Errorf("shipped %d of %d events, %d of %d gauges, %d of %d queue gauges, %d of %d annotations",
				events, now.EventSeq, gauges, now.GaugeSeq, queues, now.QueueGaugeSeq, notes, now.AnnotationSeq)
		}
		return nil
	})
}

// count returns the number that a statement selects.
func (y *system) count(t *testing.T, statement string, args ...any) uint64 {
	t.Helper()
	var n uint64
	if err := y.conn.QueryRow(t.Context(), statement, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return n
}

// run runs carom to its end, in the folder dir, and returns what it wrote.
func run(t *testing.T, dir string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, carom, args...)
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
		return out.String(), errs.String(), exit.ExitCode()
	}
	if err != nil {
		t.Fatalf("carom %s: %v, %v\n%s%s", strings.Join(args, " "), err, context.Cause(ctx), &out, &errs)
	}
	return out.String(), errs.String(), 0
}

const (
	runTimeout = 30 * time.Second
	pollPeriod = 50 * time.Millisecond
)

// await polls a condition until it returns nil, and fails the test when it does not in time.
func await(t *testing.T, atMost time.Duration, what string, condition func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), atMost)
	defer cancel()
	ticker := time.NewTicker(pollPeriod)
	defer ticker.Stop()
	var last error
	for {
		err := condition(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("waited %s for: %s; last: %v", atMost, what, last)
		}
	}
}

// engineLibrary returns the path of the ClickHouse engine. A test that needs it is skipped where
// it is not.
func engineLibrary(t *testing.T) string {
	t.Helper()
	library, err := engine.FindLibrary("")
	if err != nil && os.Getenv(engine.LibraryEnv) == "" {
		// make engine puts it where carom looks when it is started at the module's root.
		library, err = engine.FindLibrary(filepath.Join("..", "..", "build", "engine", engine.LibraryName))
	}
	if err == nil {
		return library
	}
	if os.Getenv("CAROM_REQUIRE_ENGINE") != "" {
		t.Fatalf("CAROM_REQUIRE_ENGINE is set: %v", err)
	}
	t.Skipf("needs the embedded ClickHouse engine: %v", err)
	return ""
}

// freeAddress returns an address of this machine at which nobody listens. It lies under the range
// from which systems take ports for outgoing connections, so none of these gets in the way later.
func freeAddress(t *testing.T) string {
	t.Helper()
	var err error
	for range 50 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(20_000+rand.IntN(10_000)))
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(t.Context(), "tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
	t.Fatalf("find a free port: %v", err)
	return ""
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// readLines decodes a file of JSON lines.
func readLines[T any](t *testing.T, file string) []T {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read
	var list []T
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var v T
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatalf("%s, line %d: %v", file, len(list)+1, err)
		}
		list = append(list, v)
	}
	if err := lines.Err(); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return list
}

// getJSON decodes the answer to a GET.
func getJSON(ctx context.Context, client *http.Client, url string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(v)
}

// tail keeps the last lines of processes.
type tail struct {
	mu    sync.Mutex
	lines []string
	race  bool // the race detector spoke; from there on all lines are kept
}

const tailLines = 150

func (l *tail) line(process, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.race = l.race || strings.Contains(text, "WARNING: DATA RACE")
	if len(l.lines) >= tailLines && !l.race {
		l.lines = append(l.lines[:0], l.lines[1:]...)
	}
	l.lines = append(l.lines, process+" | "+text)
}

// String implements fmt.Stringer.
func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// exitConfig is the exit status for mistakes in the configuration.
var exitConfig = service.ExitStatus(&service.ConfigError{})
