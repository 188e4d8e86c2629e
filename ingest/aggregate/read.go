package aggregate

import (
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"

	"github.com/emersion/go-message/charset"
)

// read reads the report that data is or packs; ok is false if it is none.
func read(data []byte) (r *Report, ok bool) {
	src, ok := unpack(data)
	if !ok {
		return nil, false
	}
	// One byte more than is read tells whether the report goes on.
	limited := &io.LimitedReader{R: src, N: maxBytes + 1}
	text, root := peek(limited)
	switch root {
	case '<':
		r, ok = readDMARC(text)
	case '{':
		r, ok = readTLS(text)
	default:
		return nil, false
	}
	if !ok {
		return nil, false
	}
	r.Truncated = r.Truncated || limited.N <= 0
	return r, true
}

// unpack returns what data packs, or data itself.
func unpack(data []byte) (io.Reader, bool) {
	switch {
	case bytes.HasPrefix(data, []byte{0x1f, 0x8b}): // RFC 1952 section 2.3.1
		packed, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, false
		}
		packed.Multistream(false)
		return packed, true
	case bytes.HasPrefix(data, []byte("PK\x03\x04")): // PKWARE's APPNOTE.TXT section 4.3.7
		archive, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return nil, false
		}
		for _, file := range archive.File { // RFC 7489 section 7.2.1.1 wants one file
			if file.FileInfo().IsDir() {
				continue
			}
			packed, err := file.Open()
			return packed, err == nil
		}
		return nil, false
	}
	return bytes.NewReader(data), true
}

// peek returns r without the byte order mark and the blanks at its beginning, and the byte that
// comes next; 0 if there is none within a few.
func peek(r io.Reader) (io.Reader, byte) {
	begin := make([]byte, 64)
	n, err := io.ReadFull(r, begin)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, 0
	}
	begin = bytes.TrimLeft(bytes.TrimPrefix(begin[:n], []byte("\xef\xbb\xbf")), " \t\r\n")
	if len(begin) == 0 {
		return nil, 0
	}
	return io.MultiReader(bytes.NewReader(begin), r), begin[0]
}

// readDMARC reads a report of RFC 7489 appendix C. What comes after a mistake in it is left away.
func readDMARC(src io.Reader) (*Report, bool) {
	tokens := &tokenReader{src: bufio.NewReader(src)}
	d := xml.NewDecoder(tokens)
	d.Strict = false // an "&" in an organisation's name is no reason to lose the rest
	d.CharsetReader = func(name string, input io.Reader) (io.Reader, error) {
		if r, err := charset.Reader(name, input); err == nil {
			return r, nil
		}
		return input, nil // what counts is ASCII
	}
	p := dmarc{report: &Report{Kind: DMARC, Dispositions: map[Disposition]int64{}}}
	var path []string
	var text strings.Builder
	for {
		tokens.left = maxToken
		token, err := d.RawToken() // Token would keep a stack of its own
		if err != nil {
			// The end of the input is a mistake too, unless every element is closed.
			p.report.Truncated = len(path) > 0
			break
		}
		switch t := token.(type) {
		case xml.StartElement:
			name := strings.ToLower(t.Name.Local)
			if len(path) == 0 && name != "feedback" || len(path) >= maxDepth {
				return nil, false
			}
			path = append(path, name)
			text.Reset()
		case xml.CharData:
			if text.Len() < maxWord {
				text.Write(t[:min(len(t), maxWord)])
			}
		case xml.EndElement:
			if len(path) == 0 {
				return nil, false
			}
			p.element(path, text.String())
			text.Reset()
			if path = path[:len(path)-1]; len(path) == 0 {
				return p.report, p.found
			}
		}
	}
	return p.report, p.found
}

// tokenReader ends after left bytes. The decoder takes single bytes of it and never reads ahead.
type tokenReader struct {
	src  *bufio.Reader
	left int
}

// ReadByte is part of io.ByteReader.
func (r *tokenReader) ReadByte() (byte, error) {
	if r.left--; r.left < 0 {
		return 0, io.EOF
	}
	return r.src.ReadByte()
}

// Read is part of io.Reader, which the decoder asks for without using it.
func (r *tokenReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, err := r.ReadByte()
	if err != nil {
		return 0, err
	}
	p[0] = b
	return 1, nil
}

// dmarc collects a DMARC report.
type dmarc struct {
	report *Report
	found  bool // a policy, without which it is some other feedback
	row    row
}

type row struct {
	count       int64
	dkim, spf   bool
	disposition Disposition
}

// element takes the text of the element at path, when it ends.
func (p *dmarc) element(path []string, text string) {
	r := p.report
	switch inside(path) {
	case "report_metadata/org_name":
		r.Organisation = first(r.Organisation, text)
	case "report_metadata/report_id":
		r.ID = first(r.ID, text)
	case "date_range/begin":
		r.Begin = moment(text)
	case "date_range/end":
		r.End = moment(text)
	case "policy_published/domain":
		r.Domain, p.found = first(r.Domain, strings.ToLower(text)), true
	case "row/count":
		p.row.count = count(text)
	case "policy_evaluated/dkim":
		p.row.dkim = pass(text)
	case "policy_evaluated/spf":
		p.row.spf = pass(text)
	case "policy_evaluated/disposition":
		p.row.disposition = disposition(text)
	case "feedback/record":
		r.add(p.row)
		p.row = row{}
	}
}

func (r *Report) add(row row) {
	r.Rows++
	if row.dkim {
		r.DKIMPassed = sum(r.DKIMPassed, row.count)
	}
	if row.spf {
		r.SPFPassed = sum(r.SPFPassed, row.count)
	}
	if row.dkim || row.spf {
		r.Passed = sum(r.Passed, row.count)
	} else {
		r.Failed = sum(r.Failed, row.count)
	}
	if row.disposition == "" {
		row.disposition = NoDisposition
	}
	r.Dispositions[row.disposition] = sum(r.Dispositions[row.disposition], row.count)
}

// inside returns the last two names of a path.
func inside(path []string) string {
	if len(path) < 2 {
		return ""
	}
	return path[len(path)-2] + "/" + path[len(path)-1]
}

func pass(text string) bool { return strings.EqualFold(strings.TrimSpace(text), "pass") }

func disposition(text string) Disposition {
	switch d := Disposition(strings.ToLower(strings.TrimSpace(text))); d {
	case Quarantine, Reject:
		return d
	default:
		return NoDisposition
	}
}

// readTLS reads a report of RFC 8460 section 4.4. What comes after a mistake in it is left away.
func readTLS(src io.Reader) (*Report, bool) {
	d := json.NewDecoder(src)
	d.UseNumber()
	p := tls{report: &Report{Kind: TLS, FailedSessionsByType: map[string]int64{}}}
	// names holds the member that each open object or array is the value of; an array's elements
	// have the name of the array.
	var names []string
	var arrays []bool
	name, isName := "", false
	for {
		token, err := d.Token()
		if err != nil {
			p.report.Truncated = len(names) > 0
			return p.report, p.found()
		}
		switch t := token.(type) {
		case json.Delim:
			switch t {
			case '{', '[':
				if len(names) >= maxDepth {
					return nil, false
				}
				names, arrays = append(names, name), append(arrays, t == '[')
			case '}', ']':
				name = names[len(names)-1]
				names, arrays = names[:len(names)-1], arrays[:len(arrays)-1]
				if t == '}' {
					p.object(name)
				}
				if len(names) == 0 {
					return p.report, p.found()
				}
			}
			isName = len(arrays) > 0 && !arrays[len(arrays)-1]
			continue
		case string:
			if isName {
				name, isName = strings.ToLower(cut(t)), false
				continue
			}
			p.member(names[len(names)-1], name, t)
		case json.Number:
			p.member(names[len(names)-1], name, t.String())
		}
		isName = !arrays[len(arrays)-1]
	}
}

// tls collects a TLS report.
type tls struct {
	report  *Report
	counted bool // there is a number of sessions, without which it is some other JSON
	failure failure
}

type failure struct {
	result string
	count  int64
}

func (p *tls) found() bool { return p.counted && p.report.Rows > 0 }

// member takes the value of a member of an object, which is itself the value of the member parent.
func (p *tls) member(parent, name, value string) {
	r := p.report
	switch name {
	case "organization-name":
		r.Organisation = first(r.Organisation, value)
	case "report-id":
		r.ID = first(r.ID, value)
	case "start-datetime":
		r.Begin = moment(value)
	case "end-datetime":
		r.End = moment(value)
	case "policy-domain":
		r.Domain = first(r.Domain, strings.ToLower(value))
	case "total-successful-session-count":
		r.SessionsOK, p.counted = sum(r.SessionsOK, count(value)), true
	case "total-failure-session-count":
		r.SessionsFailed, p.counted = sum(r.SessionsFailed, count(value)), true
	case "result-type":
		p.failure.result = resultType(value)
	case "failed-session-count":
		if parent == "failure-details" {
			p.failure.count = count(value)
		}
	}
}

// object ends an object that is the value of the member of that name, or an element of it.
func (p *tls) object(name string) {
	switch name {
	case "policies":
		p.report.Rows++
	case "failure-details":
		if p.failure.result != "" {
			p.report.FailedSessionsByType[p.failure.result] = sum(p.report.FailedSessionsByType[p.failure.result], p.failure.count)
		}
		p.failure = failure{}
	}
}

// resultType returns a result type of RFC 8460 section 4.3, or "other".
func resultType(value string) string {
	switch value = strings.ToLower(strings.TrimSpace(value)); value {
	case "starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted",
		"validation-failure", "tlsa-invalid", "dnssec-invalid", "dane-required", "sts-policy-fetch-error",
		"sts-policy-invalid", "sts-webpki-invalid":
		return value
	}
	return "other"
}
