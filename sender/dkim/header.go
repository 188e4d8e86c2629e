package dkim

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// signedFields are the header fields that are signed where present: those that PowerMTA signs.
// Bcc, Comments, DKIM-Signature, Keywords, Received, Resent-Bcc and Return-Path are never
// signed, because they are changed or removed on the way.
var signedFields = []string{
	"From", "Sender", "Reply-To", "To", "CC", "Subject", "Date", "Message-ID", "In-Reply-To", "References",
	"MIME-Version", "Content-Type", "Content-Transfer-Encoding", "Content-Id", "Content-Description",
	"List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Subscribe", "List-Post",
	"List-Owner", "List-Archive",
	"Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc", "Resent-Date", "Resent-Message-ID",
}

// neverSigned are the header fields that no directive makes signed, in lower case.
var neverSigned = []string{
	"bcc", "comments", "dkim-signature", "keywords", "received", "resent-bcc", "return-path",
}

// maxSignedBytes bounds the h= tag. Only a header with dozens of equal fields comes near: then
// some of their repetitions are not signed.
const maxSignedBytes = 900

// fieldSet says which header fields are signed.
type fieldSet struct {
	names    []string       // built-in ones first, as they stand in h=
	index    map[string]int // into names, by the name in lower case
	closed   []bool         // like names: signed once more than present
	patterns []*regexp.Regexp
}

// builtInFields is the set without additions, which most Signers share.
var builtInFields = newBuiltInFields()

func newBuiltInFields() *fieldSet {
	s := &fieldSet{index: make(map[string]int, len(signedFields))}
	for _, name := range signedFields {
		s.add(name)
	}
	return s
}

// newFieldSet returns the built-in set with the names and /patterns/ of headers and the names of
// closed added.
func newFieldSet(headers, closed []string) (*fieldSet, error) {
	if len(headers)+len(closed) == 0 {
		return builtInFields, nil
	}
	s := newBuiltInFields()
	for _, name := range headers {
		if pattern, ok := strings.CutPrefix(name, "/"); ok {
			if pattern, ok = strings.CutSuffix(pattern, "/"); !ok {
				return nil, fmt.Errorf("header pattern %s has no second /", name)
			}
			compiled, err := regexp.Compile("(?i)" + pattern)
			if err != nil {
				return nil, fmt.Errorf("header pattern %s: %w", name, err)
			}
			s.patterns = append(s.patterns, compiled)
			continue
		}
		if !isFieldName([]byte(name)) {
			return nil, fmt.Errorf("bad header name %q", name)
		}
		s.add(name)
	}
	for _, name := range closed {
		if !isFieldName([]byte(name)) {
			return nil, fmt.Errorf("bad header name %q", name)
		}
		if i, ok := s.add(name); ok {
			s.closed[i] = true
		}
	}
	return s, nil
}

// add adds a name unless the set has it, and returns where it is. It takes none of neverSigned.
func (s *fieldSet) add(name string) (int, bool) {
	key := strings.ToLower(name)
	if slices.Contains(neverSigned, key) {
		return 0, false
	}
	i, ok := s.index[key]
	if !ok {
		i = len(s.names)
		s.index[key] = i
		s.names = append(s.names, name)
		s.closed = append(s.closed, false)
	}
	return i, true
}

// matches reports whether a pattern takes the field name, which is in lower case.
func (s *fieldSet) matches(name []byte) bool {
	for _, p := range s.patterns {
		if p.Match(name) {
			return isFieldName(name) && !slices.Contains(neverSigned, string(name))
		}
	}
	return false
}

// isFieldName reports whether name is one of a header field (RFC 5322 section 3.6.8) that can
// stand in h= as it is.
func isFieldName(name []byte) bool {
	for _, c := range name {
		if c <= ' ' || c > '~' || c == ':' || c == ';' {
			return false
		}
	}
	return len(name) > 0
}

// fields is what the header of a message says.
type fields struct {
	sender, from string   // domains of the addresses, "" without one
	names        []string // for h=: a field that occurs n times is in it n times
	signed       [][]byte // the fields to hash, in the order of names
}

// found is a field that may be signed.
type found struct {
	rank int    // by which h= is ordered
	name string // for h=
	text []byte
}

// scan reads a header up to its end or the empty line that ends it.
func (s *fieldSet) scan(header []byte) (fields, error) {
	var room [48]found
	list := room[:0]
	var extra map[string]int // ranks of the names that patterns took
	var from, sender string
	var buf [64]byte // of a name in lower case
	for len(header) > 0 {
		var field []byte
		field, header = cutField(header)
		if len(bytes.TrimRight(field, "\r\n")) == 0 {
			break
		}
		name, value, ok := bytes.Cut(field, []byte(":"))
		if !ok {
			continue
		}
		key := lower(buf[:0], bytes.TrimRight(name, " \t"))
		at := found{text: bytes.TrimSuffix(bytes.TrimSuffix(field, []byte("\n")), []byte("\r"))}
		if at.rank, ok = s.index[string(key)]; ok {
			at.name = s.names[at.rank]
		} else if s.matches(key) {
			at.name = string(key)
			if at.rank, ok = extra[at.name]; !ok {
				if extra == nil {
					extra = map[string]int{}
				}
				at.rank = len(s.names) + len(extra)
				extra[at.name] = at.rank
			}
		} else {
			continue
		}
		list = append(list, at)
		switch at.name {
		case "From":
			if from == "" {
				from = string(value)
			}
		case "Sender":
			if sender == "" {
				sender = string(value)
			}
		}
	}
	var f fields
	f.from, _ = addressDomain(from)
	if f.from == "" {
		return fields{}, ErrNoFrom
	}
	f.sender, _ = addressDomain(sender)
	f.choose(s, list)
	return f, nil
}

// choose fills names and signed. Of equal fields the last comes first (RFC 6376 section 5.4.2).
func (f *fields) choose(s *fieldSet, list []found) {
	slices.Reverse(list)
	slices.SortStableFunc(list, func(a, b found) int { return a.rank - b.rank })
	f.names = make([]string, 0, len(list)+4)
	f.signed = make([][]byte, 0, len(list))
	size, next := 0, 0
	for rank := 0; rank < len(s.names) || next < len(list); rank++ {
		all := true
		for k := 0; next < len(list) && list[next].rank == rank; next++ {
			at := list[next]
			if size += len(at.name) + 1; k > 0 && size > maxSignedBytes {
				all = false
				continue
			}
			k++
			f.names = append(f.names, at.name)
			f.signed = append(f.signed, at.text)
		}
		// A name more than fields keeps others from being added (RFC 6376 section 8.15).
		if all && rank < len(s.names) && s.closed[rank] {
			f.names = append(f.names, s.names[rank])
		}
	}
}

func lower(buf, s []byte) []byte {
	for _, c := range s {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		buf = append(buf, c)
	}
	return buf
}

// cutField returns the first field of header with its continuation lines, and what follows it.
func cutField(header []byte) (field, rest []byte) {
	at := 0
	for {
		i := bytes.IndexByte(header[at:], '\n')
		if i < 0 {
			return header, nil
		}
		at += i + 1
		if at == len(header) || header[at] != ' ' && header[at] != '\t' {
			return header[:at], header[at:]
		}
	}
}

// addressDomain returns the domain of the first address in the value of a From or Sender field.
// It is lenient where it can be: only the domain matters, and comments, quoted names and groups
// (RFC 5322 section 3.4) only have to be skipped.
func addressDomain(value string) (string, bool) {
	at := -1          // of the last @ outside quotes and comments
	end := len(value) // of the domain behind it
	comment, quoted := 0, false
scan:
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\\' && (quoted || comment > 0):
			i++
		case quoted:
			quoted = c != '"'
		case c == '(':
			if at >= 0 {
				end = min(end, i)
			}
			comment++
		case c == ')' && comment > 0:
			comment--
		case comment > 0:
		case c == '"':
			quoted = true
		case c == '<':
			at, end = -1, len(value) // what stood before it was a name
		case c == '@':
			at, end = i, len(value)
		case c == '>', c == ',', c == ';':
			if at >= 0 {
				end = min(end, i)
				break scan
			}
		}
	}
	if at < 0 {
		return "", false
	}
	return asciiDomain(strings.Trim(value[at+1:end], " \t\r\n"))
}
