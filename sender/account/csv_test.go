package account

import (
	"bytes"
	"encoding/csv"
	"flag"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
)

var update = flag.Bool("update", false, "rewrite the expectations in testdata")

var noon = time.Date(2026, 11, 23, 12, 0, 0, 123_456_000, time.UTC)

// noonClock is a clock that stands.
func noonClock() time.Time { return noon }

var zone = time.FixedZone("", 3600)

func delivered() event.Event {
	e := event.Event{
		Time: noon, Kind: event.Delivered, MailFrom: "news@shop.test", Recipient: "ann@example.com",
		Headers: map[string]string{"ESMTP": "ENHANCEDSTATUSCODES,8BITMIME", "ORCPT": "Ann@example.com"},
		MXHost:  "mx1.example.com", MXIP: netip.MustParseAddr("192.0.2.25"), SourceIP: netip.MustParseAddr("198.51.100.1"),
		ClientMTA: "app1", ClientIP: netip.MustParseAddr("::ffff:10.0.0.1"), Size: 1234, VMTA: "vmta1", Job: "spring", EnvID: "e1",
		Queue: "example.com/vmta1", Pool: "pool1", Queued: 1500 * time.Millisecond, PMTACategory: "success",
	}
	e.SetReply(smtpstatus.New(250, "2.1.5 OK, \"fine\""))
	return e
}

// samples has an event or more of each kind that accounting files hold.
func samples() []event.Event {
	with := func(change func(e *event.Event)) event.Event {
		e := delivered()
		change(&e)
		return e
	}
	reply := func(kind event.Kind, code int, text, category string) event.Event {
		return with(func(e *event.Event) {
			e.Kind, e.PMTACategory = kind, category
			e.SetReply(smtpstatus.New(code, text))
		})
	}
	local := func(kind event.Kind, enhanced, text, category string) event.Event {
		return with(func(e *event.Event) {
			e.Kind, e.PMTACategory, e.Code, e.Enhanced, e.Reply = kind, category, 0, enhanced, text
			e.MXHost, e.MXIP = "", netip.Addr{}
		})
	}
	report := func(kind event.Kind, feedback, text string) event.Event {
		e := event.Event{
			Time: noon, Kind: kind, MailFrom: "b-token@bounce.test", Recipient: "ann@example.com", EnvID: "e1", FeedbackType: feedback,
			ReportingMTA: "mx9.example.com", MXHost: "mailbox7.example.com", ClientMTA: "mx9.example.com", ClientIP: netip.MustParseAddr("2001:db8::9"),
			Headers: map[string]string{"ORCPT": "Ann@example.com"}, PMTACategory: "bad-mailbox",
		}
		if text != "" {
			e.SetReply(smtpstatus.Parse(text))
		}
		return e
	}
	return []event.Event{
		delivered(),
		with(func(e *event.Event) { e.SetReply(smtpstatus.New(250, "ok")) }),
		reply(event.Bounced, 550, "5.1.1 <ann@example.com>: no such user", "bad-mailbox"),
		reply(event.Bounced, 554, "go away", "policy-related"),
		local(event.Bounced, "5.1.2", "example.com: no such domain", "bad-domain"),
		local(event.Expired, "", "", "message-expired"),
		local(event.Suppressed, "5.7.1", "recipient is suppressed", "policy-related"),
		local(event.Deleted, "", "", "other"),
		local(event.Discarded, "", "", "success"),
		reply(event.Deferred, 451, "4.7.1 later\xff", "policy-related"),
		local(event.Deferred, "", "read: connection reset", "no-answer-from-host"),
		with(func(e *event.Event) {
			e.Kind, e.MailFrom, e.Recipient, e.Recipients = event.QueueDeferred, "", "", 12
			e.SetReply(smtpstatus.New(421, "too many connections"))
		}),
		with(func(e *event.Event) {
			e.Kind, e.Listener, e.Queued = event.Received, "[2001:db8::1]:25", 0
			e.Code, e.Enhanced, e.Reply, e.Queue, e.SourceIP, e.MXHost, e.MXIP = 0, "", "", "", netip.Addr{}, "", netip.Addr{}
		}),
		report(event.RemoteBounce, "failed", "550 5.1.1 unknown"),
		report(event.RemoteBounce, "failed", ""),
		report(event.RemoteBounce, "failed", "mailbox is no more"),
		report(event.RemoteStatus, "delayed", "4.4.1 no route"),
		report(event.RemoteStatus, "delivered", ""),
		report(event.RemoteStatus, "not-spam", ""),
		func() event.Event {
			e := report(event.Complaint, "abuse", "")
			e.Headers = map[string]string{"User-Agent": "FBL/1.0", FormatHeader: "jmrp"}
			e.SourceIP = netip.MustParseAddr("198.51.100.1")
			return e
		}(),
		with(func(e *event.Event) { e.Kind = event.Rejected }),
		with(func(e *event.Event) { e.Kind = event.ReportConsumed }),
		with(func(e *event.Event) { e.Kind = event.Kind(200) }),
	}
}

// file opens an accounting file in a new folder, with a clock that stands.
func file(t testing.TB, o FileOptions) (f *File, clock *time.Time) {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "acct.csv")
	}
	f, err := OpenFile(o)
	if err != nil {
		t.Fatal(err)
	}
	now := noon
	f.now, f.layout.zone = func() time.Time { return now }, zone
	t.Cleanup(func() { _ = f.Close() })
	return f, &now
}

// listing returns the files in the folder of an accounting file and what is in them.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, entry := range entries {
		if entry.IsDir() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = string(data)
	}
	return files
}

func write(t *testing.T, f *File, events ...event.Event) {
	t.Helper()
	for i := range events {
		if err := f.Write(&events[i], uint64(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
}

// The header of the default file is PowerMTA's (User's Guide 5.0, chapter 11), and so is the order
// of the others.
func TestColumns(t *testing.T) {
	for records, want := range map[string]string{
		"d,b": "type,timeLogged,timeQueued,orig,rcpt,orcpt,dsnAction,dsnStatus,dsnDiag,dsnMta,bounceCat,srcType,srcMta,dlvType," +
			"dlvSourceIp,dlvDestinationIp,dlvEsmtpAvailable,dlvSize,vmta,jobId,envId,queue,vmtaPool",
		"tq": "type,timeLogged,dsnStatus,dsnDiag,dsnMta,dlvType,dlvSourceIp,dlvDestinationIp,vmta,queue,vmtaPool",
		"r":  "type,timeLogged,orig,rcpt,orcpt,srcType,srcMta,rcvSourceIp,rcvDestinationIp,vmta,jobId,envId,vmtaPool",
		"rb": "type,timeLogged,format,orig,rcpt,orcpt,dsnAction,dsnStatus,dsnDiag,dsnMta,dsnReportingMta,bounceCat,srcType,srcMta,envId",
		"f":  "type,timeLogged,format,userAgent,orig,rcpt,reportingMta,feedbackType,dlvSourceIp,envId,header_From,header_Return-Path,header_X-job,header_Subject",
	} {
		f, _ := file(t, FileOptions{RecordOptions: RecordOptions{Records: strings.Split(records, ",")}})
		if got := strings.Join(f.layout.names, ","); got != want {
			t.Errorf("records %s:\n got %s\nwant %s", records, got, want)
		}
	}
}

func TestGolden(t *testing.T) {
	for _, tc := range []struct {
		name string
		o    FileOptions
	}{
		{"default", FileOptions{RecordOptions: RecordOptions{Records: []string{"d", "b"}}}},
		{"transient", FileOptions{RecordOptions: RecordOptions{Records: []string{"t", "tq"}, UserString: "node 1, rack \"A\""}}},
		{"received", FileOptions{RecordOptions: RecordOptions{Records: []string{"r"}, UnixTimes: true}}},
		{"reports", FileOptions{RecordOptions: RecordOptions{Records: []string{"rb", "rs", "f"}}}},
		{"everything", FileOptions{RecordOptions: RecordOptions{Records: letters}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, _ := file(t, tc.o)
			write(t, f, samples()...)
			got := listing(t, filepath.Dir(f.options.Path))["acct-2026-11-23-0000.csv"]
			golden := filepath.Join("testdata", tc.name+".csv")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			reader := csv.NewReader(strings.NewReader(got)) // as any reader, it wants as many cells in each row
			if _, err := reader.ReadAll(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestQuote(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cells := rapid.SliceOfN(rapid.OneOf(rapid.String(), rapid.StringMatching(`[a",\r\n ]*`)), 1, 5).Draw(t, "cells")
		var row []byte
		for i, cell := range cells {
			if i > 0 {
				row = append(row, ',')
			}
			start := len(row)
			row = quote(append(row, cell...), start)
			cells[i] = strings.ReplaceAll(cell, "\r\n", "\n") // the reader's doing
		}
		if bytes.Equal(row, nil) {
			return // one empty cell is an empty line, which the reader skips
		}
		got, err := csv.NewReader(bytes.NewReader(append(row, '\r', '\n'))).Read()
		if err != nil {
			t.Fatalf("%q: %v", row, err)
		}
		if diff := cmp.Diff(cells, got); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", row, diff)
		}
	})
}

func names(files map[string]string) []string { return slices.Sorted(maps.Keys(files)) }

func TestRotation(t *testing.T) {
	e := delivered()
	t.Run("by day of the time zone", func(t *testing.T) {
		f, now := file(t, FileOptions{RecordOptions: RecordOptions{Records: []string{"d"}}})
		write(t, f, e)
		*now = time.Date(2026, 11, 23, 22, 59, 59, 0, time.UTC)
		write(t, f, e)
		*now = now.Add(time.Second) // midnight one hour east
		write(t, f, e)
		files := listing(t, filepath.Dir(f.options.Path))
		if diff := cmp.Diff([]string{"acct-2026-11-23-0000.csv", "acct-2026-11-24-0000.csv"}, names(files)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for name, rows := range map[string]int{"acct-2026-11-23-0000.csv": 3, "acct-2026-11-24-0000.csv": 2} {
			if got := strings.Count(files[name], "\r\n"); got != rows || !strings.HasPrefix(files[name], "type,") {
				t.Errorf("%s has %d rows, want %d:\n%s", name, got, rows, files[name])
			}
		}
	})
	t.Run("by size", func(t *testing.T) {
		f, _ := file(t, FileOptions{RecordOptions: RecordOptions{Records: []string{"d"}}, MaxBytes: 1000})
		for range 10 {
			write(t, f, e)
		}
		total := 0
		files := listing(t, filepath.Dir(f.options.Path))
		for name, text := range files {
			total += strings.Count(text, "\r\nd,")
			if rows := strings.SplitAfter(text, "\r\n"); len(text)-len(rows[len(rows)-2]) >= 1000 {
				t.Errorf("%s went on beyond 1000 bytes: %d", name, len(text))
			}
		}
		if len(files) < 3 || total != 10 {
			t.Errorf("%d files with %d records", len(files), total)
		}
		if !strings.HasSuffix(names(files)[1], "-0001.csv") {
			t.Errorf("files %q", names(files))
		}
	})
	t.Run("by interval, and moved", func(t *testing.T) {
		dir := t.TempDir()
		f, now := file(t, FileOptions{Path: filepath.Join(dir, "acct.csv"), RecordOptions: RecordOptions{Records: []string{"d"}}, MoveTo: filepath.Join(dir, "done"), Interval: time.Minute})
		write(t, f, e)
		*now = now.Add(time.Minute - 1)
		write(t, f, e)
		*now = now.Add(1)
		write(t, f, e) // into the next
		*now = now.Add(time.Minute)
		write(t, f) // nothing, but its time is over
		if diff := cmp.Diff([]string{"acct-2026-11-23-0000.csv", "acct-2026-11-23-0001.csv"}, names(listing(t, filepath.Join(dir, "done")))); diff != "" {
			t.Errorf("moved (-want +got):\n%s", diff)
		}
		if left := listing(t, dir); len(left) > 0 {
			t.Errorf("not moved: %q", names(left))
		}
	})
	t.Run("without move-to there is no interval", func(t *testing.T) {
		f, now := file(t, FileOptions{RecordOptions: RecordOptions{Records: []string{"d"}}, Interval: time.Minute})
		write(t, f, e)
		*now = now.Add(time.Hour)
		write(t, f, e)
		if files := listing(t, filepath.Dir(f.options.Path)); len(files) != 1 {
			t.Errorf("files %q", names(files))
		}
	})
	t.Run("each run has its own file", func(t *testing.T) {
		dir := t.TempDir()
		for range 3 {
			f, _ := file(t, FileOptions{Path: filepath.Join(dir, "acct.csv"), RecordOptions: RecordOptions{Records: []string{"d"}}})
			write(t, f, e)
		}
		if files := listing(t, dir); len(files) != 3 || !strings.HasSuffix(names(files)[2], "-0002.csv") {
			t.Errorf("files %q", names(files))
		}
	})
	t.Run("what a dead run left is moved", func(t *testing.T) {
		dir := t.TempDir()
		for _, name := range []string{"acct-2026-11-22-0007.csv", "acct-2026-11-22-0007.csv.gz", "acct-other-2026-11-22-0000.csv", "acct-2026-13-22-0000.csv", "acct-2026-11-22-x000.csv"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		file(t, FileOptions{Path: filepath.Join(dir, "acct.csv"), RecordOptions: RecordOptions{Records: []string{"d"}}, MoveTo: filepath.Join(dir, "done")})
		if diff := cmp.Diff([]string{"acct-2026-11-22-0007.csv"}, names(listing(t, filepath.Join(dir, "done")))); diff != "" {
			t.Errorf("moved (-want +got):\n%s", diff)
		}
	})
	t.Run("old files go", func(t *testing.T) {
		dir := t.TempDir()
		for _, name := range []string{"acct-2026-11-20-0000.csv", "acct-2026-11-21-0000.csv", "acct-2026-11-20-0000.txt"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f, _ := file(t, FileOptions{Path: filepath.Join(dir, "acct.csv"), RecordOptions: RecordOptions{Records: []string{"d"}}, DeleteAfter: 48 * time.Hour})
		write(t, f, e)
		if diff := cmp.Diff([]string{"acct-2026-11-20-0000.txt", "acct-2026-11-21-0000.csv", "acct-2026-11-23-0000.csv"}, names(listing(t, dir))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("no file for other records", func(t *testing.T) {
		f, _ := file(t, FileOptions{RecordOptions: RecordOptions{Records: []string{"rb"}}})
		write(t, f, e)
		if files := listing(t, filepath.Dir(f.options.Path)); len(files) > 0 {
			t.Errorf("files %q", names(files))
		}
	})
}

func TestOpenFileRefuses(t *testing.T) {
	if _, err := OpenFile(FileOptions{Path: filepath.Join(t.TempDir(), "acct.csv"), RecordOptions: RecordOptions{Records: []string{"d", "p"}}}); err == nil || !strings.Contains(err.Error(), `"p"`) {
		t.Errorf("record type p: %v", err)
	}
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(FileOptions{Path: filepath.Join(blocked, "acct.csv")}); err == nil {
		t.Error("a folder that cannot be made is no error")
	}
}

func TestDiskThatRefuses(t *testing.T) {
	e := delivered()
	f, _ := file(t, FileOptions{RecordOptions: RecordOptions{Records: []string{"d"}}})
	write(t, f, e)
	// A file that is closed behind its back stands for a full disk.
	f.file.Close()
	if err := f.Write(&e, 1); err != nil {
		t.Fatalf("Write before the buffer is full: %v", err)
	}
	if err := f.Flush(); err == nil {
		t.Fatal("Flush to a closed file is no error")
	}
	if err := f.Flush(); err == nil {
		t.Error("Flush says all is well while records are missing")
	}
	write(t, f, e) // the next file
	files := listing(t, filepath.Dir(f.options.Path))
	if diff := cmp.Diff([]string{"acct-2026-11-23-0000.csv", "acct-2026-11-23-0001.csv"}, names(files)); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	for name, text := range files {
		if strings.Count(text, "\r\n") != 2 || !strings.HasSuffix(text, "\r\n") {
			t.Errorf("%s: %q", name, text)
		}
	}
}

func BenchmarkFile(b *testing.B) {
	f, err := OpenFile(FileOptions{Path: filepath.Join(b.TempDir(), "acct.csv"), RecordOptions: RecordOptions{Records: []string{"d", "b"}}, MaxBytes: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	e := delivered()
	b.ReportAllocs()
	for b.Loop() {
		if err := f.Write(&e, 1); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
}

// TestCloseAfterAFailedFlush: the file is closed although what was left could not be written.
func TestCloseAfterAFailedFlush(t *testing.T) {
	f, err := OpenFile(FileOptions{Path: filepath.Join(t.TempDir(), "acct.csv"), RecordOptions: RecordOptions{Records: []string{"d"}}})
	if err != nil {
		t.Fatal(err)
	}
	e := delivered()
	if err := f.Write(&e, 1); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	f.file.Close() // takes no writes
	if err := f.Write(&e, 2); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err == nil || f.file != nil {
		t.Errorf("closed with error %v; the file is open: %v", err, f.file != nil)
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFileMode: others may read only where world-readable says so.
func TestFileMode(t *testing.T) {
	for _, readable := range []bool{false, true} {
		f, _ := file(t, FileOptions{RecordOptions: RecordOptions{Records: []string{"d"}}, WorldReadable: readable, Sync: true})
		write(t, f, delivered())
		info, err := os.Stat(f.file.Name())
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm()&0o004 != 0; got != readable {
			t.Errorf("world-readable %v: mode %v", readable, info.Mode())
		}
	}
}

// TestMoved: who asks is told of each file that was moved, with its records.
func TestMoved(t *testing.T) {
	dir := t.TempDir()
	var got []int64
	f, _ := file(t, FileOptions{
		Path: filepath.Join(dir, "acct.csv"), MoveTo: filepath.Join(dir, "done"), RecordOptions: RecordOptions{Records: []string{"d"}},
		Moved: func(name string, records int64) {
			if filepath.Dir(name) != filepath.Join(dir, "done") {
				t.Errorf("moved to %s", name)
			}
			got = append(got, records)
		},
	})
	write(t, f, delivered(), delivered())
	if err := f.Rotate(); err != nil {
		t.Fatal(err)
	}
	write(t, f, delivered())
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{2, 1}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
