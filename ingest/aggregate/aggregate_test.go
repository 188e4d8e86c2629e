package aggregate

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/ingest/mime"
)

// dmarcReport is a report of our own, with what reporters do beside the schema: a name space,
// elements in between, upper-case results, an ampersand.
const dmarcReport = `<?xml version="1.0" encoding="UTF-8" ?>
<feedback xmlns="urn:ietf:params:xml:ns:dmarc-2.0">
  <version>1.0</version>
  <report_metadata>
    <org_name>Mail & More</org_name>
    <email>dmarc@mail.example</email>
    <report_id>r-17</report_id>
    <date_range><begin>1795046400</begin><end>1795132799</end></date_range>
  </report_metadata>
  <policy_published><domain>Shop.Example</domain><adkim>r</adkim><p>quarantine</p><pct>100</pct></policy_published>
  <record>
    <row><source_ip>192.0.2.7</source_ip><count>40</count>
      <policy_evaluated><disposition>none</disposition><dkim>pass</dkim><spf>Pass</spf></policy_evaluated></row>
    <identifiers><header_from>shop.example</header_from></identifiers>
    <auth_results><dkim><domain>shop.example</domain><result>pass</result></dkim></auth_results>
  </record>
  <record>
    <row><source_ip>2001:db8::1</source_ip><count>2</count>
      <policy_evaluated><disposition>quarantine</disposition><dkim>fail</dkim><spf>fail</spf></policy_evaluated></row>
  </record>
  <record>
    <row><source_ip>192.0.2.8</source_ip><count>3</count>
      <policy_evaluated><dkim>fail</dkim><spf>pass</spf></policy_evaluated></row>
  </record>
</feedback>
`

func wantDMARC() *Report {
	return &Report{
		Kind: DMARC, Organisation: "Mail & More", ID: "r-17", Domain: "shop.example",
		Begin: time.Unix(1795046400, 0).UTC(), End: time.Unix(1795132799, 0).UTC(), Rows: 3,
		Passed: 43, Failed: 2, DKIMPassed: 40, SPFPassed: 43,
		Dispositions: map[Disposition]int64{NoDisposition: 43, Quarantine: 2},
	}
}

const tlsReport = `{
  "organization-name": "Mail Company",
  "date-range": {"start-datetime": "2026-11-20T00:00:00Z", "end-datetime": "2026-11-20T23:59:59Z"},
  "contact-info": "tls@mail.example",
  "report-id": "t-5",
  "policies": [
    {"policy": {"policy-type": "sts", "policy-string": ["version: STSv1", "mode: testing"], "policy-domain": "Shop.example", "mx-host": ["*.shop.example"]},
     "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
     "failure-details": [
       {"result-type": "certificate-expired", "sending-mta-ip": "2001:db8::1", "failed-session-count": 100},
       {"result-type": "starttls-not-supported", "failed-session-count": 200, "failure-reason-code": null},
       {"result-type": "the moon", "failed-session-count": 3}]},
    {"policy": {"policy-type": "no-policy-found", "policy-domain": "other.example"},
     "summary": {"total-successful-session-count": 1, "total-failure-session-count": 0}}
  ]
}`

func wantTLS() *Report {
	return &Report{
		Kind: TLS, Organisation: "Mail Company", ID: "t-5", Domain: "shop.example",
		Begin: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC), End: time.Date(2026, 11, 20, 23, 59, 59, 0, time.UTC),
		Rows: 2, SessionsOK: 5327, SessionsFailed: 303,
		FailedSessionsByType: map[string]int64{"certificate-expired": 100, "starttls-not-supported": 200, "other": 3},
	}
}

func gzipped(data string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(data)) // a buffer takes everything
	_ = w.Close()
	return b.Bytes()
}

func zipped(names []string, data string) []byte {
	var b bytes.Buffer
	archive := zip.NewWriter(&b)
	for _, name := range names {
		w, err := archive.Create(name)
		if err == nil && !strings.HasSuffix(name, "/") {
			_, _ = w.Write([]byte(data)) // a buffer takes everything
		}
	}
	_ = archive.Close()
	return b.Bytes()
}

// mail returns a message with a text and an attachment.
func mail(contentType string, attachment []byte) string {
	return "From: reports@mail.example\nSubject: Report Domain: shop.example Submitter: mail.example Report-ID: <r-17>\n" +
		"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\nThis is an aggregate report.\n--b\nContent-Type: " + contentType +
		"\nContent-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString(attachment) + "\n--b--\n"
}

func parse(tb testing.TB, message string) (*Report, error) {
	tb.Helper()
	m, err := mime.Parse([]byte(message), mime.Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return Parse(m)
}

func TestParse(t *testing.T) {
	latin1 := strings.Replace(strings.Replace(dmarcReport, "UTF-8", "iso-8859-1", 1), "Mail & More", "Mail &amp; More", 1)
	for _, tc := range []struct {
		name, message string
		want          *Report
	}{
		{"zip", mail("application/zip", zipped([]string{"mail.example!shop.example!1795046400!1795132799.xml"}, dmarcReport)), wantDMARC()},
		{"zip with a folder", mail("application/x-zip-compressed", zipped([]string{"reports/", "reports/r.xml"}, dmarcReport)), wantDMARC()},
		{"gzip", mail("application/gzip", gzipped(dmarcReport)), wantDMARC()},
		{"gzip that is called something else", mail("application/octet-stream", gzipped(dmarcReport)), wantDMARC()},
		{"XML", mail("text/xml", []byte(dmarcReport)), wantDMARC()},
		{"XML with a byte order mark and CRLF", mail("application/xml", []byte("\xef\xbb\xbf"+strings.ReplaceAll(dmarcReport, "\n", "\r\n"))), wantDMARC()},
		{"XML as text", mail("text/plain; name=\"R.XML\"", []byte(dmarcReport)), wantDMARC()},
		{"another charset", mail("text/xml", []byte(latin1)), wantDMARC()},
		{"unknown charset", mail("text/xml", []byte(strings.Replace(dmarcReport, "UTF-8", "klingon", 1))), wantDMARC()},
		{"the whole message is the attachment", "Content-Type: application/gzip\nContent-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString(gzipped(dmarcReport)), wantDMARC()},
		{"TLS gzip", mail("application/tlsrpt+gzip", gzipped(tlsReport)), wantTLS()},
		{"TLS JSON", mail("application/tlsrpt+json", []byte(tlsReport)), wantTLS()},
		{"TLS in zip", mail("application/octet-stream", zipped([]string{"r.json"}, tlsReport)), wantTLS()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parse(t, tc.message)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("Parse (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNoReport(t *testing.T) {
	for name, message := range map[string]string{
		"plain mail":                "Subject: x\n\n<feedback>",
		"other XML":                 mail("text/xml", []byte("<html><feedback></feedback></html>")),
		"other feedback":            mail("text/xml", []byte("<feedback><stars>5</stars></feedback>")),
		"other JSON":                mail("application/json", []byte(`{"policies":[{"policy":{}}]}`)),
		"JSON that is no object":    mail("application/json", []byte(`[1,2,3]`)),
		"counts without a policy":   mail("application/json", []byte(`{"total-successful-session-count":1}`)),
		"broken gzip":               mail("application/gzip", []byte("\x1f\x8bnothing")),
		"broken zip":                mail("application/zip", []byte("PK\x03\x04nothing")),
		"zip of nothing but folder": mail("application/zip", zipped([]string{"a/"}, "")),
		"empty":                     mail("application/zip", nil),
		"blanks":                    mail("text/xml", []byte(" \n ")),
		"a picture":                 mail("image/png", []byte(dmarcReport)),
		"report inside a message":   "Content-Type: message/rfc822\n\n" + mail("text/xml", []byte(dmarcReport)),
		"end before begin":          mail("text/xml", []byte("</feedback>")),
		"behind many parts":         "Content-Type: multipart/mixed; boundary=b\n\n" + strings.Repeat("--b\nContent-Type: application/pdf\n\n%PDF\n", 10) + "--b\nContent-Type: text/xml\n\n" + dmarcReport,
	} {
		t.Run(name, func(t *testing.T) {
			if r, err := parse(t, message); !errors.Is(err, ErrNotAggregate) {
				t.Errorf("Parse = %+v, %v, want ErrNotAggregate", r, err)
			}
		})
	}
}

func TestBrokenReportGivesWhatStandsBefore(t *testing.T) {
	cutXML, _, _ := strings.Cut(dmarcReport, "<record>\n    <row><source_ip>2001")
	r, err := parse(t, mail("text/xml", []byte(cutXML)))
	if err != nil || r.Passed != 40 || r.Rows != 1 || !r.Truncated {
		t.Errorf("XML: %+v, %v", r, err)
	}
	cutJSON, _, _ := strings.Cut(tlsReport, `{"policy": {"policy-type": "no-policy`)
	r, err = parse(t, mail("application/tlsrpt+json", []byte(cutJSON)))
	if err != nil || r.SessionsOK != 5326 || r.Rows != 1 || !r.Truncated {
		t.Errorf("JSON: %+v, %v", r, err)
	}
	var long strings.Builder // a window of deflate is 32 KiB: less is lost when the end is
	long.WriteString(cutXML)
	for i := range 10_000 {
		fmt.Fprintf(&long, "<record><row><source_ip>2001:db8::%x</source_ip><count>1</count></row></record>\n", i)
	}
	packed := gzipped(long.String() + "</feedback>")
	if r, err = parse(t, mail("application/gzip", packed[:len(packed)/2])); err != nil || r.Failed < 1000 || !r.Truncated {
		t.Errorf("gzip: %+v, %v", r, err)
	}
}

func TestNumbersAndDates(t *testing.T) {
	for value, want := range map[string]int64{"7": 7, "\n8": 8, "-1": 0, "": 0, "1e3": 0, "9223372036854775807": math.MaxInt64, "9223372036854775808": 0} {
		if got := count(value); got != want {
			t.Errorf("count(%q) = %d, want %d", value, got, want)
		}
	}
	if got := sum(math.MaxInt64-1, 5); got != math.MaxInt64 {
		t.Errorf("sum = %d, want the greatest", got)
	}
	for value, want := range map[string]string{
		"1795046400": "2026-11-19T00:00:00Z", "2026-11-20T01:00:00+01:00": "2026-11-20T00:00:00Z",
		"0": "", "-5": "", "99999999999999": "", "yesterday": "",
	} {
		if got := date(moment(value)); got != want {
			t.Errorf("moment(%q) = %q, want %q", value, got, want)
		}
	}
}

func TestCounts(t *testing.T) {
	r := wantDMARC()
	r.Truncated, r.Organisation = true, strings.Repeat("ü", 200)
	want := map[string]string{
		"organisation": strings.Repeat("ü", 127), "report-id": "r-17", "domain": "shop.example", "begin": "2026-11-19T00:00:00Z", "end": "2026-11-19T23:59:59Z",
		"rows": "3", "messages": "45", "passed": "43", "failed": "2", "dkim-passed": "40", "spf-passed": "43",
		"disposition-none": "43", "disposition-quarantine": "2", "truncated": "yes",
	}
	if diff := cmp.Diff(want, r.Counts()); diff != "" {
		t.Errorf("DMARC (-want +got):\n%s", diff)
	}
	want = map[string]string{
		"organisation": "Mail Company", "report-id": "t-5", "domain": "shop.example", "begin": "2026-11-20T00:00:00Z", "end": "2026-11-20T23:59:59Z",
		"rows": "2", "sessions-ok": "5327", "sessions-failed": "303",
		"failed-certificate-expired": "100", "failed-starttls-not-supported": "200", "failed-other": "3",
	}
	if diff := cmp.Diff(want, wantTLS().Counts()); diff != "" {
		t.Errorf("TLS (-want +got):\n%s", diff)
	}
}

// TestBombs holds reports that are made to grow to bounded memory. What they come to is not the
// matter, except that a large report keeps what was read of it.
func TestBombs(t *testing.T) {
	const records = 100_000
	record := "<record><row><count>1</count><policy_evaluated><dkim>pass</dkim></policy_evaluated></row></record>"
	head, _, _ := strings.Cut(dmarcReport, "  <record>")
	entities := `<?xml version="1.0"?><!DOCTYPE feedback [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><feedback><policy_published><domain>` + strings.Repeat("&b;", 1000) + "</domain></policy_published></feedback>"
	names := make([]string, 20_000)
	for i := range names {
		names[i] = fmt.Sprint(i, "/")
	}
	for _, tc := range []struct {
		name    string
		packed  []byte
		isFound bool
	}{
		{"records", gzipped(head + strings.Repeat(record, records) + "</feedback>"), true},
		{"zip of zeros", zipped([]string{"r.xml"}, strings.Repeat("\x00", 16<<20)), false},
		{"gzip of one text", gzipped(head + "<x>" + strings.Repeat("a", 16<<20)), true},
		{"attributes", gzipped("<feedback " + strings.Repeat(`a="" `, 4<<20) + ">"), false},
		{"depth", gzipped("<feedback>" + strings.Repeat("<a>", 3<<20)), false},
		{"comment", gzipped("<feedback><!--" + strings.Repeat("-", 16<<20)), false},
		{"entities", []byte(entities), true},
		{"JSON depth", gzipped(`{"policies":` + strings.Repeat("[", 16<<20)), false},
		{"JSON policies", gzipped(`{"total-failure-session-count":1,"policies":[` + strings.Repeat("{},", 4<<20)), true},
		{"JSON one string", gzipped(`{"policies":"` + strings.Repeat(`\u0000`, 4<<20)), false},
		{"files", zipped(names, ""), false},
		{"gzip members", bytes.Repeat(gzipped(""), 50_000), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := allocated()
			r, ok := read(tc.packed)
			if ok != tc.isFound || ok && tc.name != "entities" && !r.Truncated {
				t.Errorf("found %v, want %v: %+v", ok, tc.isFound, r)
			}
			if tc.name == "records" && (r.Passed < 10_000 || int(r.Passed) != r.Rows || r.Rows >= records) {
				t.Errorf("%d passed of %d rows", r.Passed, r.Rows)
			}
			// Everything that was ever allocated bounds what lived at a time. Strings of tokens come and
			// go, so it may be a multiple of what was read.
			if used := allocated() - before; used > 16*maxBytes {
				t.Errorf("allocated %d MiB", used>>20)
			} else {
				t.Logf("allocated %d KiB for %d bytes", used>>10, len(tc.packed))
			}
		})
	}
}

// allocated returns the bytes that were allocated since the start of the process.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// TestCorpus reads a report that a receiver sent.
func TestCorpus(t *testing.T) {
	files, err := filepath.Glob("../../../shared/corpora/files/*/samples/smtp_tls/*.eml")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skip("../shared/corpora is not there")
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r, err := parse(t, string(data))
		if err != nil || r.Kind != TLS || r.Organisation == "" || r.Domain == "" || r.SessionsOK+r.SessionsFailed == 0 {
			t.Errorf("%s: %+v, %v", file, r, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(dmarcReport))
	f.Add([]byte(tlsReport))
	f.Add(gzipped(dmarcReport))
	f.Add(zipped([]string{"r.json"}, tlsReport))
	f.Add([]byte(`{"a":{"policies":[[{"failure-details":[{}]}]]}} x`))
	f.Add([]byte("<feedback><policy_published><domain/></policy_published></feedback>"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, ok := read(data)
		if !ok {
			return
		}
		if r.Kind != DMARC && r.Kind != TLS || r.Rows < 0 || r.Messages() < 0 || r.SessionsOK < 0 || r.SessionsFailed < 0 {
			t.Fatalf("read = %+v", r)
		}
		counts := r.Counts()
		if len(counts) > 40 {
			t.Fatalf("%d counts", len(counts))
		}
		for name, value := range counts {
			if len(value) > maxWord {
				t.Fatalf("%s has %d bytes", name, len(value))
			}
		}
	})
}
