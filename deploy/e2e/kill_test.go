package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/deploy/load"
	"carom/deploy/receivers"
	"carom/deploy/up/supervise"
	"carom/ingest/correlate"
	"carom/schemas/event"
	"carom/schemas/warehouse"
	"carom/sender/config"
)

// killScenario has receivers that take everything but unknown users, after a second try of some,
// and that bounce and complain a moment later.
const killScenario = `{
  "version": 1, "seed": 7, "scale": 1, "duration": "30s",
  "providers": [
    {"name": "big", "domains": ["big.test"], "mx": ["mx1.big.test", "mx2.big.test"], "latency_ms": [15, 45],
     "unknown_user_frac": 0.02, "complaints": {"base": 0.01, "delay_s": [0.2, 2], "fbl_to": "{{reports}}"}, "async_bounces": {"frac": 0.01, "delay_s": [0.2, 2]}},
    {"name": "grey", "domains": ["grey.test"], "mx": ["mx.grey.test"], "latency_ms": [15, 45], "grey": {"frac": 0.2, "min_retry": "1s"},
     "unknown_user_frac": 0.02, "complaints": {"base": 0.01, "delay_s": [0.2, 2], "fbl_to": "{{reports}}"}, "async_bounces": {"frac": 0.01, "delay_s": [0.2, 2]}},
    {"name": "small", "domains": ["small.test"], "mx": ["mx.small.test"], "latency_ms": [15, 45], "refuse_at": "data",
     "unknown_user_frac": 0.05, "complaints": {"base": 0.01, "delay_s": [0.2, 2], "fbl_to": "{{reports}}"}, "async_bounces": {"frac": 0.01, "delay_s": [0.2, 2]}}
  ],
  "load": [
    {"tenant": "shop", "domains": {"big.test": 0.5, "grey.test": 0.3, "small.test": 0.2}, "per_s": [{"at": "0s", "v": 250}]}
  ]
}`

const (
	killMessages = 6000 // enough for all deaths on a slow machine
	killRate     = 250  // messages a second
	killDomains  = 3
)

// The processes of carom up; victimUp is carom up itself.
const (
	victimEngine    = "engine"
	victimSender    = "sender"
	victimAgent     = "agent"
	victimAnalytics = "analytics"
	victimUp        = "up"
)

// words are the first arguments of carom by process.
var words = map[string]string{"clickhouse": victimEngine, "sender": victimSender, "ingest": victimAgent, "analytics": victimAnalytics}

// death is one kill -9.
type death struct {
	victim   string
	at, back time.Time // back: its successor runs
}

// TestKill kills each process in turn, at full load, and counts at the end: nothing that got a 250
// is lost, nothing is sent twice but what was in flight when a sender died, and ClickHouse has
// every record once.
func TestKill(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("finds the processes of carom up in /proc, which only Linux has")
	}
	y := startSystem(t, killScenario, unlimited)
	loaded := make(chan loadResult, 1)
	go func() { loaded <- y.load(t.Context(), killMessages) }()

	victims := []string{victimEngine, victimAgent, victimAnalytics, victimSender, victimUp, victimSender, victimEngine}
	deaths := make([]death, 0, len(victims))
	sent := 0
	for _, victim := range victims {
		sent = y.awaitFlow(t, sent+killMessages/20)
		select {
		case r := <-loaded:
			t.Fatalf("the load ended (%+v, %v) before %s was killed: it is too short to say anything", r.summary, r.err, victim)
		default:
		}
		deaths = append(deaths, y.kill(t, victim))
	}
	result := <-loaded
	result.check(t, killMessages)
	y.awaitJob(t, deaths)
	y.awaitGauges(t)
	y.awaitRest(t, 30*time.Second)

	w := y.whole(t)
	for _, d := range deaths {
		t.Logf("killed %-9s at %s, back after %s", d.victim, d.at.Format(time.TimeOnly), d.back.Sub(d.at).Round(time.Millisecond))
	}
	t.Logf("receivers took %d recipients; load: %+v", len(w.received), result.summary)
	t.Run("nothing accepted is lost", func(t *testing.T) { w.checkNothingLost(t) })
	t.Run("every recipient has one end", func(t *testing.T) { w.checkOneEnd(t, result.summary, deaths) })
	t.Run("duplicates were in flight", func(t *testing.T) { w.checkDuplicates(t, deaths) })
	t.Run("streams are complete", func(t *testing.T) { y.checkComplete(t) })
	t.Run("accepted recipients add up", func(t *testing.T) { y.checkIdentity(t) })
	t.Run("reports found their messages", func(t *testing.T) { y.checkReports(t) })
	t.Run("roll-up equals events", func(t *testing.T) { y.checkRollup(t) })
}

type loadResult struct {
	summary load.Summary
	err     error
}

// check fails the test unless all messages got a 250.
func (r loadResult) check(t *testing.T, messages int) {
	t.Helper()
	if r.err != nil || r.summary.Accepted != messages {
		t.Fatalf("carom load: %+v, %v; want %d accepted", r.summary, r.err, messages)
	}
}

func (y *system) acceptLog() string { return filepath.Join(y.dir, "handed-over.ndjson") }

// load hands over messages, each to a recipient of its own.
func (y *system) load(ctx context.Context, messages int) loadResult {
	var out strings.Builder
	var r loadResult
	r.err = y.supervisor.Do(ctx, supervise.Process{
		Name: "load", Path: carom, Stdout: &out,
		Args: []string{
			"load", "mail", "--to", y.smtp, "--scenario", filepath.Join(y.dir, "scenario.json"), "--json", "--give-up", "20s",
			"--messages", strconv.Itoa(messages), "--rate", strconv.Itoa(killRate) + "/s", "--size", "2000",
			"--job", job, "--from-domain", fromDomain, "--accept-log", y.acceptLog(),
		},
	})
	r.err = errors.Join(r.err, json.Unmarshal([]byte(out.String()), &r.summary))
	return r
}

// awaitFlow waits until the receivers have taken n messages, and returns how many it is.
func (y *system) awaitFlow(t *testing.T, n int) int {
	t.Helper()
	var accepted int
	await(t, 20*time.Second, fmt.Sprintf("%d messages delivered", n), func(ctx context.Context) (err error) {
		if accepted, err = y.accepted(ctx); err == nil && accepted < n {
			err = fmt.Errorf("only %d", accepted)
		}
		return err
	})
	return accepted
}

// kill kills a process while the node delivers, and waits for its successor.
func (y *system) kill(t *testing.T, victim string) death {
	t.Helper()
	before := y.processes(t)
	if len(before) != len(words)+1 {
		t.Fatalf("before the death of %s these processes ran: %v", victim, before)
	}
	await(t, 10*time.Second, "an open session", func(ctx context.Context) error {
		s, err := y.status(ctx)
		if err == nil && s.Sessions == 0 {
			err = errors.New("the node has none")
		}
		return err
	})
	d := death{victim: victim, at: time.Now()}
	if err := syscall.Kill(before[victim], syscall.SIGKILL); err != nil {
		t.Fatalf("kill %s: %v", victim, err)
	}
	await(t, 20*time.Second, "the successor of "+victim, func(ctx context.Context) error {
		after := y.processes(t)
		for name, pid := range before {
			if died := name == victim || victim == victimUp; after[name] == 0 || died == (after[name] == pid) {
				return fmt.Errorf("before: %v, now: %v", before, after)
			}
		}
		return y.ready(ctx)
	})
	d.back = time.Now()
	return d
}

// processes returns the process ids of carom up and its children.
func (y *system) processes(t *testing.T) map[string]int {
	t.Helper()
	found := map[string]int{}
	if pid := y.upPID(); pid != 0 {
		found[victimUp] = pid
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || parent(pid) != found[victimUp] {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		args := strings.Split(string(line), "\x00")
		if err == nil && len(args) > 1 && args[0] == carom && words[args[1]] != "" {
			found[words[args[1]]] = pid
		}
	}
	return found
}

// parent returns the parent of a process, or -1 if it is gone.
func parent(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return -1
	}
	// pid (name) state ppid, see proc(5); the name may hold anything.
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return -1
	}
	n, err := strconv.Atoi(fields[1])
	if err != nil {
		return -1
	}
	return n
}

// awaitJob waits for a run of the control loop that began after the last death.
func (y *system) awaitJob(t *testing.T, deaths []death) {
	t.Helper()
	last := deaths[len(deaths)-1].at
	// A run that died keeps its turn for 15 s, and the next begins up to 10 s later.
	await(t, 30*time.Second, "a run of throttle after the last death", func(ctx context.Context) error {
		var n uint64
		err := y.conn.QueryRow(ctx, "SELECT count() FROM job_runs FINAL WHERE job = 'throttle' AND status = 'ok' AND started_at > fromUnixTimestamp64Micro(?)",
			last.UnixMicro()).Scan(&n)
		if err == nil && n == 0 {
			err = errors.New("none")
		}
		return err
	})
}

// awaitGauges waits for the first records of the gauge stream, which come ten seconds after the
// last start of the sender.
func (y *system) awaitGauges(t *testing.T) {
	t.Helper()
	await(t, 20*time.Second, "gauges", func(ctx context.Context) error {
		s, err := y.status(ctx)
		if err == nil && (s.GaugeSeq == 0 || s.QueueGaugeSeq == 0) {
			err = errors.New("none")
		}
		return err
	})
}

// recipient is one recipient of a message of the node.
type recipient struct {
	message event.ID
	index   uint32
}

// ended is what the events say about a recipient.
type ended struct {
	address  string
	ends     []string // final kinds
	reported bool     // a complaint or a bounce by mail came about the message
}

// whole is what all sides wrote down about the messages of the load.
type whole struct {
	handedOver []load.Record
	received   []receivers.Accepted
	refs       []recipient // by index of received
	events     map[recipient]ended
}

// finalKinds end a recipient.
const finalKinds = "('delivered', 'bounced', 'expired', 'suppressed', 'deleted', 'discarded')"

func (y *system) whole(t *testing.T) *whole {
	t.Helper()
	w := &whole{
		handedOver: readLines[load.Record](t, y.acceptLog()),
		received:   readLines[receivers.Accepted](t, filepath.Join(y.dir, "accepted.ndjson")),
		events:     map[recipient]ended{},
	}
	keys := y.referenceKeys(t)
	for _, a := range w.received {
		ref, err := keys.Verify(a.Ref, a.Time)
		if err != nil {
			t.Fatalf("receivers got a message with the reference %q: %v", a.Ref, err)
		}
		w.refs = append(w.refs, recipient{ref.MessageID, ref.Index})
	}
	rows, err := y.conn.Query(t.Context(), `SELECT message_id, recipient_index, any(recipient), groupArrayIf(toString(kind), kind IN `+finalKinds+`),
    (message_id, recipient_index) IN (SELECT original_message_id, original_index FROM events WHERE kind IN ('complaint', 'remote-bounce'))
FROM events WHERE message_id IN (SELECT message_id FROM events WHERE kind = 'received' AND job = ?) GROUP BY message_id, recipient_index`, job)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var r recipient
		var e ended
		if err := rows.Scan(&r.message, &r.index, &e.address, &e.ends, &e.reported); err != nil {
			t.Fatal(err)
		}
		w.events[r] = e
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return w
}

func (y *system) referenceKeys(t *testing.T) *correlate.Keys {
	t.Helper()
	c, _, err := config.Load(filepath.Join(y.dir, "carom.conf"))
	if err != nil {
		t.Fatal(err)
	}
	list := make([]correlate.Key, 0, len(c.ReferenceKeys))
	for _, k := range c.ReferenceKeys {
		list = append(list, correlate.Key{ID: k.ID, Secret: []byte(k.Key.Reveal())})
	}
	keys, err := correlate.NewKeys(list...)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// checkNothingLost looks for each message that got a 250 among those that the receivers took and
// those that ended otherwise. Recipients tell messages of the load apart.
func (w *whole) checkNothingLost(t *testing.T) {
	t.Helper()
	known := map[string]bool{}
	for _, a := range w.received {
		known[a.Recipient] = true
	}
	for _, e := range w.events {
		if slices.ContainsFunc(e.ends, func(kind string) bool { return kind != event.Delivered.String() }) {
			known[e.address] = true
		}
	}
	for _, r := range w.handedOver {
		if r.Status == load.Accepted && !known[r.Recipient] {
			t.Errorf("%s to %s got %q and is lost", r.MessageID, r.Recipient, r.Reply)
		}
	}
}

// checkOneEnd compares each recipient's events with the receivers: one end each, and delivered
// means that the receivers have it. What was in flight when a sender died may be suppressed before it is
// sent again, if a report about what the receiver got has come.
func (w *whole) checkOneEnd(t *testing.T, s load.Summary, deaths []death) {
	t.Helper()
	accepted := 0
	for _, r := range w.handedOver {
		if r.Status == load.Accepted {
			accepted++
		}
	}
	if accepted != s.Accepted {
		t.Errorf("the load counts %d accepted messages and has %d in its log", s.Accepted, accepted)
	}
	if n := len(w.events); n < s.Accepted || n > s.Accepted+s.InDoubt {
		t.Errorf("the node took %d recipients; the load counts %d with a 250 and %d without an answer", n, s.Accepted, s.InDoubt)
	}
	took := map[recipient]bool{}
	for i, r := range w.refs {
		took[r] = true
		e := w.events[r]
		if slices.Equal(e.ends, []string{event.Suppressed.String()}) && e.reported && wasInFlight(w.received[i].Time, deaths) {
			t.Logf("%s for %s was in flight when a sender died, was reported and then suppressed", r.message, e.address)
			continue
		}
		if !slices.Contains(e.ends, event.Delivered.String()) {
			t.Errorf("receivers took %s for %s, which has the ends %q", r.message, w.received[i].Recipient, e.ends)
		}
	}
	for r, e := range w.events {
		if len(e.ends) != 1 {
			t.Errorf("%s for %s has the ends %q, want one", r.message, e.address, e.ends)
		}
		if slices.Contains(e.ends, event.Delivered.String()) && !took[r] {
			t.Errorf("%s for %s is delivered by its events, but no receiver has it", r.message, e.address)
		}
	}
}

// reportedLate is how long after the death of a sender a receiver may still write down what it
// had got from it before.
const reportedLate = 2 * time.Second

func (d death) killedSender() bool { return d.victim == victimSender || d.victim == victimUp }

// wasInFlight reports whether a sender died about when a receiver took a message.
func wasInFlight(taken time.Time, deaths []death) bool {
	return slices.ContainsFunc(deaths, func(d death) bool { return d.killedSender() && taken.Sub(d.at).Abs() < reportedLate })
}

// checkDuplicates allows what the receivers got twice only if a sender died in between, and for
// each such death not more than the node had sessions: each has one message in flight.
func (w *whole) checkDuplicates(t *testing.T, deaths []death) {
	t.Helper()
	senders := slices.DeleteFunc(slices.Clone(deaths), func(d death) bool { return !d.killedSender() })
	last := map[recipient]receivers.Accepted{}
	duplicates := 0
	for i, r := range w.refs {
		a := w.received[i]
		earlier, again := last[r]
		last[r] = a
		if !again {
			continue
		}
		duplicates++
		if !slices.ContainsFunc(senders, func(d death) bool { return earlier.Time.Before(d.at.Add(reportedLate)) && a.Time.After(d.at) }) {
			t.Errorf("%s for %s was taken at %s and again at %s, and no sender died in between", r.message, a.Recipient,
				earlier.Time.Format(time.StampMilli), a.Time.Format(time.StampMilli))
		}
	}
	if most := len(senders) * killDomains * sessionsPerDomain; duplicates > most {
		t.Errorf("receivers got %d duplicates; %d deaths of a sender with %d sessions allow %d", duplicates, len(senders), killDomains*sessionsPerDomain, most)
	}
	t.Logf("%d duplicates after %d deaths of a sender", duplicates, len(senders))
}

// stream is a row of the view completeness.
type stream struct {
	Name                          string
	Gaps, Duplicates, BeforeFirst uint64
}

func (y *system) checkComplete(t *testing.T) {
	t.Helper()
	rows, err := y.conn.Query(t.Context(), `SELECT stream, toUInt64(gaps), toUInt64(duplicates), toUInt64(before_first) FROM completeness WHERE node IN (SELECT node FROM nodes) ORDER BY stream`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var got []stream
	for rows.Next() {
		var s stream
		if err := rows.Scan(&s.Name, &s.Gaps, &s.Duplicates, &s.BeforeFirst); err != nil {
			t.Fatal(err)
		}
		got = append(got, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	want := []stream{{Name: event.StreamAnnotation}, {Name: event.StreamEvent}, {Name: event.StreamGauge}, {Name: event.StreamQueueGauge}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("streams in ClickHouse (-want +got):\n%s", diff)
	}
	if n := y.count(t, "SELECT sum(quarantined) FROM nodes FINAL"); n != 0 {
		t.Errorf("%d records are quarantined", n)
	}
}

// checkIdentity is the identity of accepted recipients; nothing is queued any more.
func (y *system) checkIdentity(t *testing.T) {
	t.Helper()
	accepted := y.count(t, "SELECT countIf(kind = 'received') + countIf(kind = 'expanded') FROM events")
	ended := y.count(t, "SELECT countIf(kind IN "+finalKinds+" OR kind = 'report-consumed') FROM events")
	if accepted != ended || accepted == 0 {
		t.Errorf("%d recipients were accepted, %d came to an end; want the same", accepted, ended)
	}
	if n := y.count(t, "SELECT uniqExact(message_id, recipient_index) FROM events WHERE kind = 'received'"); n != accepted {
		t.Errorf("%d received events speak of %d recipients: some were written twice", accepted, n)
	}
}

func (y *system) checkReports(t *testing.T) {
	t.Helper()
	stats, err := y.receiverStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if stats.Reports.Failed != 0 || stats.Reports.Sent == 0 {
		t.Errorf("reports of the receivers: %+v; want some sent, none failed", stats.Reports)
	}
	known := y.count(t, "SELECT count() FROM events WHERE kind IN ('remote-bounce', 'complaint') AND match_confidence = 1")
	all := y.count(t, "SELECT count() FROM events WHERE kind IN ('remote-bounce', 'complaint', 'remote-status')")
	// A report whose answer was lost comes again.
	if known != all || known < uint64(stats.Reports.Sent) {
		t.Errorf("receivers sent %d reports; %d events came of them, %d by a token that verified", stats.Reports.Sent, all, known)
	}
	reported := y.count(t, `SELECT uniqExact(recipient) FROM events WHERE kind = 'complaint' OR kind = 'remote-bounce' AND class = 'hard'`)
	await(t, 15*time.Second, "the suppression of every reported address", func(ctx context.Context) error {
		var n uint64
		err := y.conn.QueryRow(ctx, "SELECT uniqExact(recipient_key) FROM suppressed WHERE recipient_key IN (SELECT recipient_key FROM events WHERE kind IN ('complaint', 'remote-bounce'))").Scan(&n)
		if err == nil && n != reported {
			err = fmt.Errorf("%d of %d", n, reported)
		}
		return err
	})
}

// dimensionColumns are the columns of k10s by the events' dimension.
var dimensionColumns = []struct{ column, dimension string }{
	{"ok", "ok"},
	{"usr", "user"},
	{"rate", "rate"},
	{"conn", "connections"},
	{"msgc", "messages"},
	{"block", "block"},
	{"grey", "greylist"},
	{"unav", "unavailable"},
	{"content", "content"},
	{"auth", "auth"},
	{"other", "other"},
}

// checkRollup counts the events of each key, epoch and ten seconds again.
func (y *system) checkRollup(t *testing.T) {
	t.Helper()
	sums, counts := make([]string, 0, len(dimensionColumns)), make([]string, 0, len(dimensionColumns))
	for _, d := range dimensionColumns {
		sums = append(sums, "toUInt64(sum("+d.column+"))")
		counts = append(counts, "toUInt64(countIf(dimension = '"+d.dimension+"'))")
	}
	rollup := "SELECT provider, source, epoch, ts, [" + strings.Join(sums, ", ") + "] AS n FROM k10s GROUP BY provider, source, epoch, ts"
	events := "SELECT provider, source, limit_epoch, toStartOfInterval(toDateTime(time, 'UTC'), INTERVAL 10 SECOND) AS bucket, [" +
		strings.Join(counts, ", ") + `] AS n FROM events
WHERE kind IN ('delivered', 'deferred', 'bounced', 'queue-deferred') AND provider != '' AND source != ''
    AND scope NOT IN ('domain', 'url') AND (scope != 'recipient' OR dimension = 'user')
GROUP BY provider, source, limit_epoch, bucket`
	total := "SELECT sum(arraySum(n)) FROM "
	counted := y.count(t, total+"("+rollup+")")
	if counted == 0 {
		t.Error("k10s holds no attempts")
	}
	differ := func() uint64 {
		return y.count(t, "SELECT count() FROM ("+rollup+" EXCEPT "+events+")") + y.count(t, "SELECT count() FROM ("+events+" EXCEPT "+rollup+")")
	}
	if differ() == 0 {
		return
	}
	// The engine died between a token and the rows of the roll-up: then it has less, and the job
	// completeness computes it again.
	if there := y.count(t, total+"("+events+")"); counted >= there {
		t.Errorf("k10s counts %d attempts of %d", counted, there)
	}
	now := time.Now()
	if err := warehouse.Rebuild(t.Context(), y.conn, now.Add(-time.Hour), now, warehouse.RebuildOptions{Idle: true}); err != nil {
		t.Fatal(err)
	}
	if n := differ(); n != 0 {
		t.Errorf("%d rows of k10s are not what the events give, computed again", n)
	}
}
