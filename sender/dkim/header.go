package dkim

import (
	"bytes"
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

// signedIndex finds a field of signedFields by its name in lower case.
var signedIndex = func() map[string]int {
	index := make(map[string]int, len(signedFields))
	for i, name := range signedFields {
		index[strings.ToLower(name)] = i
	}
	return index
}()

// maxSignedBytes bounds the h= tag, which is written on one line of at most 998 octets (RFC 5322
// section 2.1.1). Only a header with dozens of equal fields comes near.
const maxSignedBytes = 900

// fields is what the header of a message says.
type fields struct {
	identity string   // domain of the Sender, else of the From address
	signed   []string // for h=: a field that occurs n times is in it n times
}

// scan reads a header up to its end or the empty line that ends it.
func scan(header []byte) (fields, error) {
	count := make([]int, len(signedFields))
	var from, sender string
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
		var buf [40]byte // longer than any name in the list
		name = bytes.TrimRight(name, " \t")
		if len(name) > len(buf) {
			continue
		}
		i, ok := signedIndex[string(lower(buf[:0], name))]
		if !ok {
			continue
		}
		count[i]++
		switch signedFields[i] {
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
	fromDomain, ok := addressDomain(from)
	if !ok {
		return fields{}, ErrNoFrom
	}
	f := fields{identity: fromDomain}
	if domain, ok := addressDomain(sender); ok {
		f.identity = domain
	}
	size := 0
	for i, n := range count {
		for k := range n {
			if size += len(signedFields[i]) + 1; k > 0 && size > maxSignedBytes {
				break
			}
			f.signed = append(f.signed, signedFields[i])
		}
	}
	return f, nil
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

// headerEnd returns where the body of message begins: behind the first empty line.
func headerEnd(message []byte) int {
	if bytes.HasPrefix(message, []byte("\r\n")) {
		return 2
	}
	if i := bytes.Index(message, []byte("\r\n\r\n")); i >= 0 {
		return i + 4
	}
	return len(message)
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
