package pmta

import (
	"bytes"
	"errors"
	"strings"
)

// MaxRecord bounds a record, in octets. PowerMTA keeps headers and diagnostics to a few thousand.
const MaxRecord = 64 << 10

// Reasons why a record cannot be taken. Every error of Cut, of NewLayout apart, and of Convert wraps
// one of them.
var (
	ErrQuotes  = errors.New("quotes that do not fit")
	ErrTooLong = errors.New("longer than 64 KiB")
	ErrFields  = errors.New("another number of fields than the header")
	ErrType    = errors.New("unknown record type")
	ErrTime    = errors.New("no time that can be read")
)

// Reasons lists them with the word that reports use for each.
var Reasons = []struct {
	Err  error
	Word string
}{
	{ErrQuotes, "quotes"}, {ErrTooLong, "too-long"}, {ErrFields, "fields"}, {ErrType, "type"}, {ErrTime, "time"},
}

// Cut returns the length of the first record of data with its line end, and how many line feeds are in
// it. It is 0 if the record does not end in data, which is then to be called with more; last says that
// there is no more, and of a record without a line end it is 0 all the same: nobody can say whether that
// is written to its end.
//
// Of a record that is broken, Cut returns the first line and an error, so that one bad line costs no
// other: a record may go over several lines (RFC 4180 section 2), and one quote too many would else
// swallow all that follows. A line that is longer than MaxRecord comes in pieces of that length. How
// much of a text is in data changes nothing about the records in it.
func Cut(data []byte, last bool) (n, lines int, err error) {
	end := bytes.IndexByte(data[:min(len(data), MaxRecord)], '\n')
	switch {
	case end < 0 && len(data) >= MaxRecord:
		return MaxRecord, 0, ErrTooLong
	case end < 0:
		return 0, 0, nil
	case bytes.IndexByte(data[:end], '"') < 0:
		return end + 1, 1, nil
	}
	n, lines, ok := walk(data[:min(len(data), MaxRecord)])
	switch {
	case !ok, n == 0 && last:
		return end + 1, 1, ErrQuotes
	case n == 0 && len(data) >= MaxRecord:
		return end + 1, 1, ErrTooLong
	}
	return n, lines, nil
}

// walk goes over the fields of the first record. ok is false for a quoted field with something behind
// it; n is 0 if the record does not end in data.
func walk(data []byte) (n, lines int, ok bool) {
	end := -1 // of the line that at is in
	for at := 0; at < len(data); {
		if data[at] != '"' {
			if end < at {
				if end = bytes.IndexByte(data[at:], '\n'); end < 0 {
					return 0, 0, true
				}
				end += at
			}
			comma := bytes.IndexByte(data[at:end], ',')
			if comma < 0 {
				return end + 1, lines + 1, true
			}
			at += comma + 1
			continue
		}
		length := quoted(data[at:])
		if length < 0 {
			return 0, 0, true
		}
		lines += bytes.Count(data[at:at+length], []byte{'\n'})
		at += length
		switch rest := data[at:]; {
		case len(rest) == 0, len(rest) == 1 && rest[0] == '\r':
			return 0, 0, true
		case rest[0] == ',':
			at++
		case rest[0] == '\n':
			return at + 1, lines + 1, true
		case rest[0] == '\r' && rest[1] == '\n':
			return at + 2, lines + 1, true
		default:
			return 0, 0, false
		}
	}
	return 0, 0, true
}

// quoted returns the length of the quoted field at the beginning of data with its quotes, -1 if it does
// not end. A quote as the last octet may be the first of two: then more is needed too.
func quoted(data []byte) int {
	for at := 1; ; at += 2 {
		quote := bytes.IndexByte(data[at:], '"')
		if quote < 0 {
			return -1
		}
		at += quote
		if at+1 == len(data) {
			return -1
		}
		if data[at+1] != '"' {
			return at + 1
		}
	}
}

// Fields appends the fields of a record, as Cut has found it, to fields. They are parts of record, but
// for those with a quote in them.
func Fields(fields []string, record string) []string {
	record = strings.TrimSuffix(strings.TrimSuffix(record, "\n"), "\r")
	for {
		if record == "" || record[0] != '"' {
			comma := strings.IndexByte(record, ',')
			if comma < 0 {
				return append(fields, record)
			}
			fields, record = append(fields, record[:comma]), record[comma+1:]
			continue
		}
		var field string
		field, record = cutQuoted(record)
		fields = append(fields, field)
		if record == "" {
			return fields
		}
		record = record[1:] // the comma
	}
}

// cutQuoted splits off the quoted field at the beginning of record.
func cutQuoted(record string) (field, rest string) {
	escaped := false
	for at := 1; at < len(record); at++ {
		quote := strings.IndexByte(record[at:], '"')
		if quote < 0 {
			break
		}
		at += quote
		if at+1 < len(record) && record[at+1] == '"' {
			escaped = true
			at++
			continue
		}
		field, rest = record[1:at], record[at+1:]
		if escaped {
			field = strings.ReplaceAll(field, `""`, `"`)
		}
		return field, rest
	}
	return record[1:], "" // Cut lets no such record through
}
