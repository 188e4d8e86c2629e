package pmta

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"carom/schemas/event"
)

// sample returns n records with the default fields, one in ten a refusal.
func sample(n int) string {
	var b strings.Builder
	for i := range n {
		at := fmt.Sprintf("2026-11-23 13:%02d:%02d+0100", i/60%60, i%60)
		if i%10 == 0 {
			fmt.Fprintf(&b, "t,%s,2026-11-23 12:59:58+0100,news@shop.test,user%d@yahoo.test,,delayed,4.7.0 (other or undefined security status),"+
				"\"smtp;421 4.7.0 [TSS04] Messages from 198.51.100.7 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1; see https://postmaster.example/error-codes\","+
				"mta%d.am0.yahoodns.net (203.0.113.%d),policy-related,smtp,app1 (10.0.0.1),smtp,198.51.100.7,203.0.113.%d,,,vmta7,spring-%d,,yahoo.rollup/vmta7,pool1\r\n", at, i, i%8, i%200, i%200, i%50)
			continue
		}
		fmt.Fprintf(&b, "d,%s,2026-11-23 12:59:58+0100,news@shop.test,user%d@gmail.test,user%d@gmail.test,relayed,2.0.0 (success),"+
			"\"smtp;250 2.0.0 OK  %d d9443c01a7336-29a1b2c3%04dsi%d.123 - gsmtp\",gmail-smtp-in.l.google.com (192.0.2.25),,smtp,app1 (10.0.0.1),smtp,198.51.100.%d,192.0.2.25,"+
			"\"SIZE,8BITMIME,STARTTLS,ENHANCEDSTATUSCODES,PIPELINING,CHUNKING,SMTPUTF8\",%d,vmta%d,spring-%d,env%d,gmail.test/vmta%d,pool1\r\n",
			at, i, i, 1795435198+i, i%10000, i, i%40, 20000+i%5000, i%40, i%50, i, i%40)
	}
	return b.String()
}

// BenchmarkConvert reads records and makes events of them, as an import does in one of its threads.
func BenchmarkConvert(b *testing.B) {
	layout, err := NewLayout(strings.Split(Default, ","))
	if err != nil {
		b.Fatal(err)
	}
	const records = 10_000
	data := []byte(sample(records))
	c, m := NewConverter(Options{Tenant: "import"}), NewMemory()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	events := make([]event.Event, records)
	for b.Loop() {
		rest, i := data, 0
		for len(rest) > 0 {
			n, _, err := Cut(rest, false)
			if err != nil || n == 0 {
				b.Fatal(err)
			}
			if err := c.Convert(string(rest[:n]), layout, &events[i]); err != nil {
				b.Fatal(err)
			}
			m.Complete(&events[i])
			rest = rest[n:]
			i++
		}
	}
	b.ReportMetric(float64(records*b.N)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkCut and BenchmarkEncodingCSV say what reading alone costs, here and in the standard library.
func BenchmarkCut(b *testing.B) {
	data := []byte(sample(10_000))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	var fields []string
	for b.Loop() {
		for rest := data; len(rest) > 0; {
			n, _, err := Cut(rest, false)
			if err != nil || n == 0 {
				b.Fatal(err)
			}
			fields = Fields(fields[:0], string(rest[:n]))
			rest = rest[n:]
		}
	}
}

func BenchmarkEncodingCSV(b *testing.B) {
	data := sample(10_000)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		r := csv.NewReader(strings.NewReader(data))
		r.ReuseRecord, r.LazyQuotes = true, true
		for {
			if _, err := r.Read(); err != nil {
				if !errors.Is(err, io.EOF) {
					b.Fatal(err)
				}
				break
			}
		}
	}
}
