package importer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"carom/ingest/importer/pmta"
	"carom/schemas/service"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// target is a warehouse to import into.
type target struct {
	url  string
	conn driver.Conn
}

func newTarget(t testing.TB) *target {
	t.Helper()
	w := new(target)
	_, w.url = chtest.StartWithSchema(t)
	var err error
	if w.conn, err = warehouse.Open(t.Context(), w.url, warehouse.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.conn.Close() })
	return w
}

func (w *target) options() Options {
	return Options{PMTA: pmta.Options{Tenant: "import"}, Conn: w.conn, Version: "test", Log: slog.New(slog.DiscardHandler), records: 20 / batchBlocks}
}

// today makes the records those of a day that is not over: the views count them as they are stored.
func today(o Options) Options {
	o.now = func() time.Time { return time.Now().AddDate(0, 0, -5) }
	return o
}

func (w *target) run(t *testing.T, files ...string) Report {
	t.Helper()
	report, err := Run(t.Context(), w.options(), files)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// stored returns what the warehouse says of imports: events, the sum of what k1m has counted, and how
// many numbers are missing or twice.
func (w *target) stored(t *testing.T) (events, counted, wrong uint64) {
	t.Helper()
	err := w.conn.QueryRow(t.Context(), `
SELECT (SELECT count() FROM events WHERE node LIKE 'import/%'), (SELECT sum(ok) FROM k1m),
    (SELECT toUInt64(sum(gaps + duplicates + before_first)) FROM completeness WHERE node LIKE 'import/%')`).Scan(&events, &counted, &wrong)
	if err != nil {
		t.Fatal(err)
	}
	return events, counted, wrong
}

func (w *target) check(t *testing.T, want uint64) {
	t.Helper()
	if events, counted, wrong := w.stored(t); events != want || counted != want || wrong != 0 {
		t.Errorf("%d events, %d in the roll-up, %d numbers wrong; want %d, %d, 0", events, counted, wrong, want, want)
	}
}

// day is the day of the records: one that the roll-ups still keep.
var day = time.Now().UTC().AddDate(0, 0, -3).Format(time.DateOnly)

const header = "type,timeLogged,timeQueued,orig,rcpt,dsnStatus,dsnDiag,dsnMta,dlvSourceIp,vmta\r\n"

// deliveries returns n records, numbered from first; each is counted by k1m.
func deliveries(first, n int) string {
	var b strings.Builder
	for i := first; i < first+n; i++ {
		fmt.Fprintf(&b, "d,%[1]s 13:%02[2]d:%02[3]d+0000,%[1]s 13:00:00+0000,news@shop.test,user%[4]d@example.com,2.0.0 (success),smtp;250 ok %[4]d,mx.example.com (192.0.2.1),198.51.100.1,v1\r\n",
			day, i/60%60, i%60, i)
	}
	return b.String()
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	if !filepath.IsAbs(name) {
		name = filepath.Join(t.TempDir(), name)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestImport imports into one ClickHouse what its parts write.
func TestImport(t *testing.T) {
	w := newTarget(t)
	for _, part := range []struct {
		name string
		test func(*testing.T, *target)
	}{
		{"twice adds nothing", testTwice},
		{"killed goes on", testKilled},
		{"lost answer is no duplicate", testLostAnswer},
		{"report names what is skipped", testReport},
		{"command", testCommand},
		{"follow", testFollow},
		{"follow a slow copy", testSlowCopy},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, w) })
	}
}

func testTwice(t *testing.T, w *target) {
	text := header + deliveries(0, 95)
	name := write(t, "acct.csv", text)
	if r := w.run(t, name); r.Events != 95 || r.Records != 95 || r.Skipped != 0 {
		t.Errorf("report %+v", r)
	}
	w.check(t, 95)

	if r := w.run(t, name); r.Events != 0 || r.Unread != 1 {
		t.Errorf("the same file again: %+v", r)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if r := w.run(t, write(t, "moved.gz", packed.String())); r.Events != 0 || r.Known != 95 {
		t.Errorf("renamed and packed: %+v", r)
	}
	s, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := w.run(t, write(t, "moved.zst", string(s.EncodeAll([]byte(text), nil)))); r.Events != 0 || r.Known != 95 {
		t.Errorf("packed by zstd: %+v", r)
	}
	w.check(t, 95)

	// It has grown: in the middle of what was one batch before.
	if r := w.run(t, write(t, name, text+deliveries(95, 20))); r.Events != 20 || r.Known != 95 {
		t.Errorf("it has grown: %+v", r)
	}
	w.check(t, 115)
	// Another file with the same header and time.
	if r := w.run(t, write(t, "other.csv", header+deliveries(1000, 7))); r.Events != 7 {
		t.Errorf("another file: %+v", r)
	}
	w.check(t, 122)
	from, err := time.Parse(time.DateOnly, day)
	if err != nil {
		t.Fatal(err)
	}
	if differences, err := warehouse.Differences(t.Context(), w.conn, from, from.AddDate(0, 0, 1)); err != nil || len(differences) > 0 {
		t.Errorf("roll-ups differ from the events: %+v, %v", differences, err)
	}
	// A copy that is shorter changes nothing, not even for the whole one.
	w.run(t, write(t, "short.csv", header+deliveries(0, 33)))
	if r := w.run(t, name); r.Events != 0 {
		t.Errorf("the whole file after a short copy: %+v", r)
	}
	w.check(t, 122)
}

// flaky is a connection on which an insert of events fails at a chosen time.
type flaky struct {
	driver.Conn
	inserts  int
	fails    int  // which insert, from 1
	isStored bool // it is stored all the same: the answer is lost
	then     func()
}

var errLost = errors.New("connection is cut")

func (f *flaky) PrepareBatch(ctx context.Context, query string, o ...driver.PrepareBatchOption) (driver.Batch, error) {
	b, err := f.Conn.PrepareBatch(ctx, query, o...)
	if err != nil || !strings.HasPrefix(query, "INSERT INTO events") {
		return b, err
	}
	f.inserts++
	return &flakyBatch{b, f, f.inserts == f.fails}, nil
}

type flakyBatch struct {
	driver.Batch
	conn  *flaky
	fails bool
}

func (b *flakyBatch) Send() error {
	if !b.fails {
		return b.Batch.Send()
	}
	if b.conn.isStored {
		if err := b.Batch.Send(); err != nil {
			return err
		}
	}
	b.conn.then()
	return errLost
}

// testKilled ends an import in the middle of each of its batches, before and after ClickHouse
// has stored it, and starts it again.
func testKilled(t *testing.T, w *target) {
	for _, isStored := range []bool{false, true} {
		for fails := 1; fails <= 3; fails += 2 {
			t.Run(fmt.Sprintf("stored %v, batch %d", isStored, fails), func(t *testing.T) {
				before, _, _ := w.stored(t)
				bad := "d,never,,,,,,,,\r\n"
				name := write(t, "acct.csv", header+deliveries(int(before)+5000*fails, 17)+bad+deliveries(int(before), 25)+bad)
				ctx, kill := context.WithCancel(t.Context())
				defer kill()
				o := w.options()
				if isStored {
					o = today(o)
				}
				o.Conn = &flaky{Conn: w.conn, fails: fails, isStored: isStored, then: kill}
				if _, err := Run(ctx, o, []string{name}); !errors.Is(err, context.Canceled) {
					t.Fatalf("Run = %v, want the end of ctx", err)
				}
				o.Conn = w.conn
				r, err := Run(t.Context(), o, []string{name})
				if err != nil {
					t.Fatal(err)
				}
				if r.Records != 44 || r.ByReason["time"] > 2 {
					t.Errorf("report %+v", r)
				}
				w.check(t, before+42)
			})
		}
	}
}

func testLostAnswer(t *testing.T, w *target) {
	before, _, _ := w.stored(t)
	o := today(w.options())
	o.Conn = &flaky{Conn: w.conn, fails: 2, isStored: true, then: func() {}}
	if _, err := Run(t.Context(), o, []string{write(t, "acct.csv", header+deliveries(40_000, 50))}); err != nil {
		t.Fatal(err)
	}
	w.check(t, before+50)
}

func testReport(t *testing.T, w *target) {
	before, _, _ := w.stored(t)
	text := "\ufeff" + header + deliveries(0, 12) + "d,2026-11-23\r\n\r\n" + header + deliveries(12, 2) +
		"q,2026-11-23 13:00:00+0000,,,,,,,,\r\n" + "d,2026-11-23 13:00:00+0000,,a@b,\"open,,,,,\r\n" + deliveries(14, 1) + "d,2026-11-23 13:00:0"
	name := write(t, "acct.csv", text)
	r := w.run(t, name)
	want := []Skipped{
		{name, 14, "fields", "another number of fields than the header: 2, not 10", "d,2026-11-23"},
		{name, 19, "type", `unknown record type "q"`, "q,2026-11-23 13:00:00+0000,,,,,,,,"},
		{name, 20, "quotes", "quotes that do not fit", "d,2026-11-23 13:00:00+0000,,a@b,\"open,,,,,"},
		{name, 22, "cut", "the last line has no end: it is not written to its end", "d,2026-11-23 13:00:0"},
	}
	if fmt.Sprint(r.Lines) != fmt.Sprint(want) || r.Skipped != 4 || r.Events != 15 {
		t.Errorf("skipped:\n%v\nwant:\n%v\nreport %+v", r.Lines, want, r)
	}
	w.check(t, before+15)

	var out bytes.Buffer
	if err := show(&out, &r, false); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), name+":19: unknown record type \"q\"") {
		t.Errorf("the text has no line 19:\n%s", out.String())
	}
}

func TestFilesThatCannotBe(t *testing.T) {
	for _, tc := range []struct{ name, fields, text, want string }{
		{"no header", "", deliveries(0, 1), "line 1: this is no header line of an accounting file; if there is none, name the columns with --fields"},
		{"header twice the same column", "", "type,timeLogged,rcpt,rcpt\r\n", `line 1: header: column "rcpt" stands twice`},
		{"bad fields", "rcpt", "x\n", `--fields: no column "type"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := Options{Fields: tc.fields, Log: slog.New(slog.DiscardHandler)}
			_, err := Run(t.Context(), o, []string{write(t, "acct.csv", tc.text)})
			if _, mistake := errors.AsType[*service.ConfigError](err); !mistake || !strings.HasSuffix(err.Error(), tc.want) {
				t.Errorf("Run = %v, want %s", err, tc.want)
			}
		})
	}
}

func TestFilesWithoutHeader(t *testing.T) {
	o := Options{Fields: strings.TrimSuffix(header, "\r\n"), Log: slog.New(slog.DiscardHandler), PMTA: pmta.Options{Tenant: "x"}}
	r, err := Run(t.Context(), o, []string{write(t, "acct.csv", deliveries(0, 3))})
	if err != nil || r.Events != 3 {
		t.Errorf("%+v, %v", r, err)
	}
}

func testCommand(t *testing.T, w *target) {
	name, key := write(t, "acct.csv", header+deliveries(50_000, 3)), write(t, "key", "secret\n")
	var out bytes.Buffer
	stdio := service.IO{In: strings.NewReader(""), Out: &out, Err: io.Discard}
	if err := Command(t.Context(), []string{name, "--json", "--url", w.url, "--key-file", key}, stdio, "test", nil); err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Events != 3 || r.ByKind["delivered"] != 3 {
		t.Errorf("%s: %v", out.String(), err)
	}
	var keys uint64
	if err := w.conn.QueryRow(t.Context(), "SELECT uniqExact(recipient_key) FROM events WHERE recipient_key != ''").Scan(&keys); err != nil || keys != 3 {
		t.Errorf("%d keys, %v", keys, err)
	}
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"nothing", nil, "which files"},
		{"both", []string{"--follow", t.TempDir(), name}, "exclude each other"},
		{"no folder", []string{"--url", w.url, "--follow", name}, "no such folder"},
		{"zone", []string{"--zone", "Mars/Base", name}, "Mars/Base"},
		{"no file", []string{"--url", w.url, "/nowhere"}, "/nowhere"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := Command(t.Context(), tc.args, stdio, "test", nil)
			if _, mistake := errors.AsType[*service.ConfigError](err); !mistake || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Command(%q) = %v, want %q", tc.args, err, tc.want)
			}
		})
	}
	if err := Command(t.Context(), []string{"--dry-run", write(t, "x.csv", header+"x,,,,,,,,,\r\n")}, stdio, "test", nil); service.ExitStatus(err) != 1 {
		t.Errorf("nothing could be read: %v", err)
	}
}

// testFollow follows a folder in which a file grows, is moved away, and another one comes.
func testFollow(t *testing.T, w *target) {
	before, _, _ := w.stored(t)
	dir, archive := t.TempDir(), t.TempDir()
	name := filepath.Join(dir, "acct-2026-11-23-0000.csv")
	whole := header + deliveries(60_000, 60)
	next := deliveries(60_060, 5)
	write(t, name, whole+next[:20])
	f := newFollower(t, today(w.options()), dir)
	f.poll(t)
	w.check(t, before+60)

	grow(t, name, next[20:])
	f.poll(t)
	f.poll(t)
	w.check(t, before+65)

	// It is moved away, and PowerMTA has written a last record before it was told.
	grow(t, name, deliveries(60_065, 1))
	if err := os.Rename(name, filepath.Join(archive, "acct.csv")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "acct-2026-11-23-0001.csv"), header+deliveries(61_000, 40))
	write(t, filepath.Join(dir, "notes.txt"), "no accounting file")
	write(t, filepath.Join(dir, "broken.csv"), strings.Repeat("this is no accounting file either\n", 1000))
	f.poll(t)
	f.poll(t)
	w.check(t, before+106)
	if len(f.open) != 1 {
		t.Errorf("%d files are open, want 1", len(f.open))
	}

	// Another run knows both, and goes on with the one that grows.
	grow(t, filepath.Join(dir, "acct-2026-11-23-0001.csv"), deliveries(61_040, 2))
	again := newFollower(t, today(w.options()), dir)
	f.close()
	again.poll(t)
	w.check(t, before+108)
	if r := w.run(t, filepath.Join(archive, "acct.csv")); r.Events != 0 {
		t.Errorf("the file that was moved away: %+v", r)
	}
}

// testSlowCopy ends an import in one of its batches of 40, and follows a copy of the file that is not whole yet: no
// record of that batch is left out.
func testSlowCopy(t *testing.T, w *target) {
	for _, tc := range []struct{ batch, first, copied int }{{1, 70_000, 33}, {2, 71_000, 60}} {
		t.Run(fmt.Sprintf("batch %d", tc.batch), func(t *testing.T) {
			before, _, _ := w.stored(t)
			o := today(w.options())
			o.records = 40 / batchBlocks
			ctx, kill := context.WithCancel(t.Context())
			defer kill()
			o.Conn = &flaky{Conn: w.conn, fails: tc.batch, then: kill}
			if _, err := Run(ctx, o, []string{write(t, "acct.csv", header+deliveries(tc.first, 90))}); !errors.Is(err, context.Canceled) {
				t.Fatalf("Run = %v, want the end of ctx", err)
			}
			o.Conn = w.conn
			dir := t.TempDir()
			name := write(t, filepath.Join(dir, "acct.csv"), header+deliveries(tc.first, tc.copied))
			f := newFollower(t, o, dir)
			f.poll(t)
			grow(t, name, deliveries(tc.first+tc.copied, 90-tc.copied))
			f.poll(t)
			f.poll(t)
			w.check(t, before+90)
		})
	}
}

func newFollower(t *testing.T, o Options, dir string) *testFollower {
	t.Helper()
	r, err := newRun(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	f := &testFollower{follow(r, dir, "*.csv*")}
	t.Cleanup(f.close)
	return f
}

type testFollower struct{ *follower }

func (f *testFollower) poll(t *testing.T) {
	t.Helper()
	if err := errors.Join(f.follower.poll(t.Context(), time.Now()), f.settle(t.Context())); err != nil {
		t.Fatal(err)
	}
}

func grow(t *testing.T, name, text string) {
	t.Helper()
	file, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkImport imports 1,000,000 deliveries and refusals of yesterday, from file to counted roll-ups,
// with the engine beside it on the same machine.
func BenchmarkImport(b *testing.B) {
	const records = 1_000_000
	w := newTarget(b)
	name := filepath.Join(b.TempDir(), "acct.csv")
	file, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	out := bufio.NewWriterSize(file, 1<<20)
	at := time.Now().UTC().AddDate(0, 0, -1).Truncate(24 * time.Hour)
	_, _ = out.WriteString(pmta.Default + "\r\n") // Flush tells of an error
	for i := range records {
		logged, v := at.Add(time.Duration(i)*time.Millisecond).Format("2006-01-02 15:04:05+0000"), i%40
		switch u := i * 7919 % 20_000_000; {
		case i%12 == 0:
			_, _ = fmt.Fprintf(out, "t,%s,%s,news@shop%d.test,user%d@yahoo.test,,delayed,4.7.0 (other or undefined security status),\"smtp;421 4.7.0 [TSS04] Messages from 198.51.100.%d temporarily deferred due to unexpected volume or user complaints - 4.16.55.1; see https://postmaster.example/error-codes\",mta%d.am0.yahoodns.net (203.0.113.%d),policy-related,smtp,app1 (10.0.0.1),smtp,198.51.100.%d,203.0.113.%d,,,vmta%d,spring-%d,,yahoo.rollup/vmta%d,pool1\r\n",
				logged, logged, u%200, u, v, u%8, u%200, v, u%200, v, u%5000, v)
		case i%37 == 0:
			_, _ = fmt.Fprintf(out, "b,%s,%s,news@shop%d.test,user%d@d%d.test,,failed,5.1.1 (bad destination mailbox address),\"smtp;550 5.1.1 <user%d@d%d.test>: Recipient address rejected: User unknown in virtual mailbox table\",mx.d%d.test (203.0.113.%d),bad-mailbox,smtp,app1 (10.0.0.1),smtp,198.51.100.%d,203.0.113.%d,,,vmta%d,spring-%d,,d%d.test/vmta%d,pool1\r\n",
				logged, logged, u%200, u, u%20000, u, u%20000, u%20000, u%200, v, u%200, v, u%5000, u%20000, v)
		default:
			_, _ = fmt.Fprintf(out, "d,%s,%s,news@shop%d.test,user%d@gmail.com,,relayed,2.0.0 (success),\"smtp;250 2.0.0 OK  %d d9443c01a7336-29a1b2c3%04dsi%d.123 - gsmtp\",gmail-smtp-in.l.google.com (192.0.2.%d),,smtp,app1 (10.0.0.1),smtp,198.51.100.%d,192.0.2.%d,\"SIZE,8BITMIME,STARTTLS,ENHANCEDSTATUSCODES,PIPELINING,CHUNKING,SMTPUTF8\",%d,vmta%d,spring-%d,,gmail.com/vmta%d,pool1\r\n",
				logged, logged, u%200, u, 1_795_435_198+i, u%10000, u, u%200, v, u%200, 20000+u%50000, v, u%5000, v)
		}
	}
	if err := errors.Join(out.Flush(), file.Close()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		o := w.options()
		o.records, o.now = 0, func() time.Time { return time.Now().AddDate(0, 0, 2) }
		var stored time.Duration // until the roll-ups are being counted
		isCounting := false
		o.Progress = func(p Progress) {
			if isCounting = isCounting || p.Counted != nil; !isCounting {
				stored = p.Elapsed
			}
		}
		report, err := Run(b.Context(), o, []string{name})
		if err != nil || report.Skipped != 0 {
			b.Fatalf("%+v, %v", report, err)
		}
		b.ReportMetric(records/stored.Seconds(), "stored/s")
		b.ReportMetric(report.Rate, "counted/s")
		for _, statement := range []string{"TRUNCATE TABLE events", "TRUNCATE TABLE imports"} {
			if err := w.conn.Exec(b.Context(), statement); err != nil {
				b.Fatal(err)
			}
		}
	}
}
