package pmta

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"carom/schemas/event"
	"carom/schemas/suppression"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const separator = "----------\n"

// TestGolden reads the files of testdata: what PowerMTA writes, in many shapes, and below a line of
// dashes what becomes of it.
func TestGolden(t *testing.T) {
	names, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(names) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			input, want, ok := strings.Cut(string(data), separator)
			if !ok {
				t.Fatal("no line of dashes")
			}
			got := describe(t, input)
			if *update {
				if err := os.WriteFile(name, []byte(input+separator+got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// describe writes what Cut, Convert and Complete make of a file. In the files "\r" and "\ufeff" stand for
// themselves, so that they survive editors, "\x" for an octet that is no UTF-8, and "\c" for the end of a
// text without a line end.
func describe(t *testing.T, input string) string {
	t.Helper()
	input = strings.NewReplacer("\\c\n", "", `\r`, "\r", `\ufeff`, "\ufeff", `\x`, "\xff").Replace(input)
	rest := []byte(strings.TrimPrefix(input, "\ufeff"))
	var layout *Layout
	var b strings.Builder
	c, m := NewConverter(Options{Tenant: "import", Key: suppression.NewHasher([]byte("secret")).Key}), NewMemory()
	for line := 1; len(rest) > 0; {
		n, lines, err := Cut(rest, true)
		if n == 0 {
			fmt.Fprintf(&b, "line %d: cut\n", line)
			break
		}
		record := string(rest[:n])
		rest = rest[n:]
		at := line
		line += lines
		if err != nil {
			fmt.Fprintf(&b, "line %d: %v\n", at, err)
			continue
		}
		if strings.TrimRight(record, "\r\n") == "" {
			continue
		}
		if cells := Fields(nil, record); IsHeader(cells) {
			if layout, err = NewLayout(cells); err != nil {
				t.Fatal(err)
			}
			if len(layout.Unmapped()) > 0 {
				fmt.Fprintf(&b, "line %d: not mapped: %s\n", at, strings.Join(layout.Unmapped(), " "))
			}
			continue
		}
		var e event.Event
		if err := c.Convert(record, layout, &e); err != nil {
			fmt.Fprintf(&b, "line %d: %v\n", at, err)
			continue
		}
		m.Complete(&e)
		fmt.Fprintf(&b, "line %d:\n%s", at, show(&e))
	}
	return b.String()
}

// show writes the columns of e that have a value.
func show(e *event.Event) string {
	var b strings.Builder
	zero := &event.Event{}
	for _, c := range event.Columns {
		value := c.Value(e)
		if reflect.DeepEqual(value, c.Value(zero)) || c.Name == "classifier_version" || c.Name == "format_version" {
			continue
		}
		fmt.Fprintf(&b, "  %s %v\n", c.Name, value)
	}
	return b.String()
}

func TestLayoutRefuses(t *testing.T) {
	for _, tc := range []struct{ name, header, want string }{
		{"no type", "timeLogged,rcpt", `no column "type"`},
		{"no time", "type,rcpt", `no column "timeLogged"`},
		{"twice", "type,timeLogged,rcpt,RCPT", `column "RCPT" stands twice`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := NewLayout(strings.Split(tc.header, ","))
			if err == nil || err.Error() != tc.want {
				t.Errorf("NewLayout(%q) = %v, want %s", tc.header, err, tc.want)
			}
		})
	}
}

// TestRecordsOfOneMessageAgree: deferred, then delivered or bounced, in whatever field set, is one message.
func TestRecordsOfOneMessageAgree(t *testing.T) {
	header := "type,timeLogged,timeQueued,orig,rcpt,dsnDiag,envId,header_Message-Id"
	layout, err := NewLayout(strings.Split(header, ","))
	if err != nil {
		t.Fatal(err)
	}
	c := NewConverter(Options{})
	id := func(record string) event.ID {
		t.Helper()
		var e event.Event
		if err := c.Convert(record, layout, &e); err != nil {
			t.Fatal(err)
		}
		return e.MessageID
	}
	deferred := id("t,2026-11-23 13:00:00+0100,2026-11-23 12:59:58+0100,a@x.test,b@y.test,smtp;451 later,e1,<m@x>\n")
	for _, same := range []string{
		"d,2026-11-23 13:00:09+0100,2026-11-23 11:59:58+0000,a@x.test,b@y.test,smtp;250 ok,e1,<m@x>\n",
		"b,2026-11-23 13:10:09+0100,1795435198,a@x.test,b@y.test,smtp;550 no,e1,<m@x>\n",
		"r,2026-11-23 12:59:58+0100,,a@x.test,b@y.test,,e1,<m@x>\n",
	} {
		if got := id(same); got != deferred {
			t.Errorf("%s is message %s, not %s", same, got, deferred)
		}
	}
	for _, other := range []string{
		"d,2026-11-23 13:00:09+0100,2026-11-23 12:59:58+0100,a@x.test,c@y.test,smtp;250 ok,e1,<m@x>\n",
		"d,2026-11-23 13:00:09+0100,2026-11-23 12:59:59+0100,a@x.test,b@y.test,smtp;250 ok,e1,<m@x>\n",
		"d,2026-11-23 13:00:09+0100,2026-11-23 12:59:58+0100,a@x.test,b@y.test,smtp;250 ok,e1,<n@x>\n",
	} {
		if got := id(other); got == deferred {
			t.Errorf("%s is the same message as %s", other, deferred)
		}
	}
	if deferred.Version() != 7 || int64(deferred[0])<<40|int64(deferred[1])<<32|int64(deferred[2])<<24|int64(deferred[3])<<16|int64(deferred[4])<<8|int64(deferred[5]) != 1795435198000 {
		t.Errorf("%s does not begin with the time 1795435198", deferred)
	}
}

func TestParseTime(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"2019-02-08 21:54:05+0000", "2019-02-08T21:54:05Z"},
		{"2019-02-08 21:54:05-0530", "2019-02-09T03:24:05Z"},
		{"2019-02-08T21:54:05.25+01:00", "2019-02-08T20:54:05.25Z"},
		{"2019-02-08 21:54:05 +0100", "2019-02-08T20:54:05Z"},
		{"2019-02-08T21:54:05Z", "2019-02-08T21:54:05Z"},
		{"2019-02-08 21:54:05+01", "2019-02-08T20:54:05Z"},
		{"2019-02-08 21:54:05", "2019-02-08T21:54:05Z"},
		{"1549662845", "2019-02-08T21:54:05Z"},
		{"1549662845.5", "2019-02-08T21:54:05.5Z"},
		{"2019-02-30 21:54:05+0000", "2019-03-02T21:54:05Z"}, // as every C library has it
		{"2019-13-08 21:54:05+0000", ""},
		{"02/08/2019 21:54:05", ""},
		{"2019-02-08 21:54:05+9900", ""},
		{"2019-02-08 21:54:05+01x0", ""},
		{"0", ""},
		{"", ""},
		{"NaN", ""},
		{"-5", ""},
		{"1e300", ""},
		{"2200-01-01 00:00:00+0000", ""},
	} {
		c := NewConverter(Options{})
		at, ok := c.time(tc.text, &c.times[0])
		got := ""
		if ok {
			got = at.Format("2006-01-02T15:04:05.999999Z07:00")
		}
		if got != tc.want {
			t.Errorf("time %q = %q, want %q", tc.text, got, tc.want)
		}
	}
}

// TestCutCostsOneLine: whatever is wrong with a line, the one behind it is read.
func TestCutCostsOneLine(t *testing.T) {
	good := `d,"x",1` + "\r\n"
	for _, tc := range []struct {
		name, bad string
		want      error
		records   int // of the bad text
	}{
		{"quote that does not end", `b,"smtp;550 no such`, ErrQuotes, 1},
		{"text behind a quote", `b,"x"y,2`, ErrQuotes, 1},
		{"long line", "b," + strings.Repeat("x", 3*MaxRecord), ErrTooLong, 4},
		{"long line with quotes", `b,"` + strings.Repeat(`""`, MaxRecord) + `"`, ErrTooLong, 3},
		{"quote inside", `b,x"y,2`, nil, 1},
		{"two lines", "b,\"x\r\ny\",2", nil, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			data := []byte(good + tc.bad + "\r\n" + good + good)
			var records int
			var broken error
			for len(data) > 0 {
				n, _, err := Cut(data, true)
				if n == 0 {
					t.Fatalf("nothing is cut off %q", data[:min(len(data), 50)])
				}
				if err != nil {
					broken = err
				}
				records++
				if records > 1+tc.records && string(data[:n]) != good {
					t.Errorf("record %d is %q", records, data[:min(n, 50)])
				}
				data = data[n:]
			}
			if !errors.Is(broken, tc.want) || records != 3+tc.records {
				t.Errorf("%d records, %v; want %d, %v", records, broken, 3+tc.records, tc.want)
			}
		})
	}
}

func FuzzRecords(f *testing.F) {
	f.Add([]byte(Default+"\r\n"), []byte("d,2026-11-23 13:00:00+0100,,a@b,c@d,,relayed,2.0.0 (success),\"smtp;250 \"\"ok\"\"\",mx (192.0.2.1),,,,,,,,,,,,,\r\n"))
	f.Add([]byte("type,timeLogged,header_From\n"), []byte("f,1,\"a\nb\"\n\"d\",\"2\"x\nrb,3,\"\"\"\"\n"))
	f.Fuzz(func(t *testing.T, header, data []byte) {
		layout, err := NewLayout(Fields(nil, string(header)))
		if err != nil {
			layout, _ = NewLayout(strings.Split(Default, ","))
		}
		c, m := NewConverter(Options{Tenant: "t"}), NewMemory()
		total := 0
		for len(data) > 0 {
			n, lines, err := Cut(data, false)
			if n == 0 {
				if len(data) >= MaxRecord {
					t.Fatalf("%d octets wait for more", len(data))
				}
				break
			}
			if n > len(data) || lines < 0 {
				t.Fatalf("Cut = %d, %d of %d octets", n, lines, len(data))
			}
			record := string(data[:n])
			data = data[n:]
			total += n
			var e event.Event
			if err != nil || c.Convert(record, layout, &e) != nil {
				continue
			}
			m.Complete(&e)
			if err := event.Decode(event.Encode(nil, &e), &event.Event{}); err != nil {
				t.Fatalf("%q becomes an event that cannot be stored: %v", record, err)
			}
		}
	})
}
