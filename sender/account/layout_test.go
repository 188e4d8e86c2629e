package account

import (
	"encoding/csv"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/event"
)

// rows returns the lines that a layout makes of events, the header first, cell by cell.
func rows(t testing.TB, o RecordOptions, events ...event.Event) [][]string {
	t.Helper()
	l, err := NewLayout(o)
	if err != nil {
		t.Fatal(err)
	}
	l.zone = zone
	out := l.AppendHeader(nil)
	for i := range events {
		out, _ = l.Append(out, &events[i])
	}
	all, err := csv.NewReader(strings.NewReader(string(out))).ReadAll()
	if err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	return all
}

func TestRecordFields(t *testing.T) {
	for _, tc := range []struct {
		name, records string
		fields        map[string][]string
		want          string
	}{
		{"a list in its own order", "b", map[string][]string{"b": {"rcpt", "orig"}}, "type,rcpt,orig"},
		// The example of the User's Guide 5.0, section 11.2.9.
		{"two lists", "d,b", map[string][]string{"d": {"timeLogged", "orig", "rcpt", "dlvSourceIp"}, "b": {"timeLogged", "orig", "rcpt", "bounceCat"}}, "type,timeLogged,orig,rcpt,dlvSourceIp,bounceCat"},
		// Of a configuration in use.
		{
			"fields before the rest", "b",
			map[string][]string{"b": {"jobId", "dsnDiag", "*", "!timeImprinted", "!dlvEsmtpAvailable", "!rcpt"}},
			"type,jobId,dsnDiag,timeLogged,timeQueued,orig,orcpt,dsnAction,dsnStatus,dsnMta,bounceCat,srcType,srcMta,dlvType,dlvSourceIp,dlvDestinationIp,vmta,envId,queue,vmtaPool",
		},
		{"only less", "tq", map[string][]string{"tq": {"!dsnDiag", "!QUEUE"}}, "type,timeLogged,dsnStatus,dsnMta,dlvType,dlvSourceIp,dlvDestinationIp,vmta,vmtaPool"},
		{"headers", "r", map[string][]string{"r": {"rcpt", "header_Message-Id", "header_x-carom-ref"}}, "type,rcpt,header_Message-Id,header_x-carom-ref"},
		{"case", "d", map[string][]string{"d": {"RCPT", "reportingmta", "type", "rcpt"}}, "type,rcpt,reportingMta"},
		{"on request", "d", map[string][]string{"d": {"rcvSmtpUser", "dlvTlsProtocol", "dlvTlsCipher", "totalSecondsQueued", "timeFirstAttempt"}}, "type,rcvSmtpUser,dlvTlsProtocol,dlvTlsCipher,totalSecondsQueued,timeFirstAttempt"},
		{"a type without a list has all", "d,tq", map[string][]string{"d": {"rcpt"}}, "type,rcpt,timeLogged,dsnStatus,dsnDiag,dsnMta,dlvType,dlvSourceIp,dlvDestinationIp,vmta,queue,vmtaPool"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := rows(t, RecordOptions{Records: strings.Split(tc.records, ","), Fields: tc.fields})
			if diff := cmp.Diff(tc.want, strings.Join(got[0], ",")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if _, err := NewLayout(RecordOptions{Records: []string{"d"}, Fields: map[string][]string{"d": {"recipient"}}}); err == nil || !strings.Contains(err.Error(), `"recipient"`) {
		t.Errorf("unknown field: %v", err)
	}
}

// cellOf returns the cell of a column in a row.
func cellOf(t *testing.T, all [][]string, row int, name string) string {
	t.Helper()
	for i, column := range all[0] {
		if column == name {
			return all[row][i]
		}
	}
	t.Fatalf("no column %s in %q", name, all[0])
	return ""
}

func TestFieldsOnRequest(t *testing.T) {
	e := delivered()
	e.SMTPUser, e.TLSVersion, e.TLSCipher = "app", "TLS 1.3", "TLS_AES_128_GCM_SHA256"
	e.MessageID = event.NewID()
	e.Headers["X-Track"] = "t-1"
	bounce := e
	bounce.Kind = event.Bounced
	list := []string{"*", "rcvSmtpUser", "dlvTlsProtocol", "dlvTlsCipher", "totalSecondsQueued", "header_x-track", "header_X-Carom-Ref", "arf_Version"}
	got := rows(t, RecordOptions{Records: []string{"d", "b"}, Fields: map[string][]string{"d": list, "b": {"rcpt"}}}, e, bounce)
	for name, want := range map[string]string{
		"rcvSmtpUser": "app", "dlvTlsProtocol": "TLS 1.3", "dlvTlsCipher": "TLS_AES_128_GCM_SHA256", "totalSecondsQueued": "1",
		"header_x-track": "t-1", "header_X-Carom-Ref": e.MessageID.String(), "arf_Version": "",
	} {
		if cell := cellOf(t, got, 1, name); cell != want {
			t.Errorf("d: %s = %q, want %q", name, cell, want)
		}
		if cell := cellOf(t, got, 2, name); cell != "" {
			t.Errorf("b: %s = %q although its list does not name it", name, cell)
		}
	}
}

func TestMapHeaderToField(t *testing.T) {
	o := RecordOptions{Records: []string{"d", "b"}, Headers: []HeaderField{
		{"d", "x-bar", "rcpt"}, {"d", "x-baz", "rcpt"}, {"d", "x-foo", "orig"}, {"b", "x-foo", "rcpt"}, {"d", "x-foo", "format"},
	}}
	both, second, none, bounce := delivered(), delivered(), delivered(), delivered()
	both.Headers = map[string]string{"X-Bar": "bar", "X-Baz": "baz", "X-Foo": "foo"}
	second.Headers = map[string]string{"X-Baz": "baz"}
	bounce.Kind, bounce.Headers = event.Bounced, both.Headers
	got := rows(t, o, both, second, none, bounce)
	for i, want := range []string{"foo bar", "news@shop.test baz", "news@shop.test ann@example.com", "news@shop.test foo"} {
		if cells := cellOf(t, got, i+1, "orig") + " " + cellOf(t, got, i+1, "rcpt"); cells != want {
			t.Errorf("row %d: %s, want %s", i+1, cells, want)
		}
	}
	if _, err := NewLayout(RecordOptions{Records: []string{"d"}, Headers: []HeaderField{{"d", "x", "nix"}}}); err == nil {
		t.Error("a header for a field that does not exist is no error")
	}
}

// TestQueueFilter: records of a queue are filtered, the others are not.
func TestQueueFilter(t *testing.T) {
	other, received := delivered(), delivered()
	other.Queue, received.Kind, received.Queue = "other.test/v", event.Received, ""
	got := rows(t, RecordOptions{Records: []string{"d", "r"}, Queue: func(q string) bool { return q == "example.com/vmta1" }}, delivered(), other, received)
	if len(got) != 3 || got[1][0] != "d" || got[2][0] != "r" {
		t.Errorf("got %q", got)
	}
}

// TestTimes: what is remembered of a second is not taken for another.
func TestTimes(t *testing.T) {
	a, b := delivered(), delivered()
	b.Time = b.Time.Add(time.Second)
	got := rows(t, RecordOptions{Records: []string{"d"}}, a, b, a)
	for i, want := range []string{"2026-11-23 13:00:00+0100", "2026-11-23 13:00:01+0100", "2026-11-23 13:00:00+0100"} {
		if cell := cellOf(t, got, i+1, "timeLogged"); cell != want {
			t.Errorf("row %d: %s, want %s", i+1, cell, want)
		}
	}
	first := event.Event{Kind: event.Delivered, Time: time.Unix(0, 0)} // the zero second, which nothing was remembered of
	if got := rows(t, RecordOptions{Records: []string{"d"}}, first); cellOf(t, got, 1, "timeLogged") != "1970-01-01 01:00:00+0100" {
		t.Errorf("got %q", got[1])
	}
}

// TestImporters: what programs in use expect of the default file. The columns are read by name
// (a forwarder of pipe records in Python, the splitting of queue into domain and pool), by position
// (fluent-plugin-powermta, less timeImprinted of PowerMTA 4.0), and the time by
// "%Y-%m-%d %H:%M:%S%z".
func TestImporters(t *testing.T) {
	got := rows(t, RecordOptions{Records: []string{"d", "b"}}, samples()...)
	want := "type,timeLogged,timeQueued,orig,rcpt,orcpt,dsnAction,dsnStatus,dsnDiag,dsnMta,bounceCat,srcType,srcMta,dlvType,dlvSourceIp," +
		"dlvDestinationIp,dlvEsmtpAvailable,dlvSize,vmta,jobId,envId,queue,vmtaPool"
	if header := strings.Join(got[0], ","); header != want {
		t.Fatalf("header %s", header)
	}
	for i, row := range got[1:] {
		for _, column := range []int{1, 2} {
			if _, err := time.Parse("2006-01-02 15:04:05-0700", row[column]); err != nil || strings.HasSuffix(row[column], "Z") {
				t.Errorf("row %d: time %q: %v", i, row[column], err)
			}
		}
		if row[0] != "d" && row[0] != "b" {
			t.Errorf("row %d has type %q", i, row[0])
		}
		domain, vmta, ok := strings.Cut(row[21], "/")
		if !ok || domain != "example.com" || vmta != row[18] {
			t.Errorf("row %d: queue %q, vmta %q", i, row[21], row[18])
		}
		if code, text, ok := strings.Cut(row[7], " "); !ok || strings.Count(code, ".") != 2 || text[0] != '(' {
			t.Errorf("row %d: dsnStatus %q", i, row[7])
		}
		if row[0] == "b" && row[10] == "" || row[0] == "d" && row[6] != "relayed" {
			t.Errorf("row %d: bounceCat %q, dsnAction %q", i, row[10], row[6])
		}
	}
}

// TestRepair: half a record at the end of the file of a run that was killed goes, whole ones stay.
func TestRepair(t *testing.T) {
	header := "type,dsnDiag\r\n"
	for _, tc := range []struct{ name, text, want string }{
		{"whole", header + "d,x\r\n", header + "d,x\r\n"},
		{"half", header + "d,x\r\nb,y", header + "d,x\r\n"},
		{"within quotes behind a line end", header + "d,x\r\nb,\"one\r\n", header + "d,x\r\n"},
		{"half an escaped quote", header + "b,\"one\"\"", header},
		{"half a header", "type,dsn", ""},
		{"a line beyond the buffer", header + "d," + strings.Repeat("x", 3*bufferBytes) + "\r\nb", header + "d," + strings.Repeat("x", 3*bufferBytes) + "\r\n"},
		{"empty", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "acct-2026-11-21-0000.csv"), "d,not the last") // of an earlier run
			writeFile(t, filepath.Join(dir, "acct-2026-11-22-0000.csv"), tc.text)
			file(t, FileOptions{Path: filepath.Join(dir, "acct.csv"), RecordOptions: RecordOptions{Records: []string{"d"}}})
			files := listing(t, dir)
			if got := files["acct-2026-11-22-0000.csv"]; got != tc.want {
				t.Errorf("left %q, want %q", got, tc.want)
			}
			if got := files["acct-2026-11-21-0000.csv"]; got != "d,not the last" {
				t.Errorf("an earlier file became %q", got)
			}
		})
	}
}

func FuzzWholeRecords(f *testing.F) {
	f.Add("a,\"b\r\n\"\r\nc")
	f.Add("\"\"\"\n\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		whole, size, err := wholeRecords(strings.NewReader(text))
		if err != nil || size != int64(len(text)) || whole > size {
			t.Fatalf("%q: whole %d, size %d, %v", text, whole, size, err)
		}
		if again, _, _ := wholeRecords(strings.NewReader(text[:whole])); again != whole {
			t.Fatalf("%q: %d, and of that %d", text, whole, again)
		}
	})
}

func FuzzQuote(f *testing.F) {
	f.Add("a\xff,\"")
	f.Fuzz(func(t *testing.T, text string) {
		row := quote([]byte(text), 0)
		if len(row) == 0 || strings.Contains(text, "\r") { // the reader makes \n of \r\n
			return
		}
		got, err := csv.NewReader(strings.NewReader(string(row) + "\r\n")).Read()
		if want := strings.ToValidUTF8(text, "?"); err == nil && len(got) == 1 && got[0] == want || text == "\n" {
			return
		}
		t.Fatalf("%q: %q, %v", text, got, err)
	})
}
