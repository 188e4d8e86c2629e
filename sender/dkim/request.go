package dkim

import (
	"errors"
	"fmt"
	"strings"
)

// Request is what the sender of a message asks of its signature in an X-DKIM-Options field.
// The zero value asks nothing.
type Request struct {
	Selector    string // only a key with this selector signs
	Domain      string // d=: only a key of exactly this domain, or of any, signs
	QueryMethod string // q=
	KeyList     string // name of the list of keys to pick from; for the caller
	identity    identity
}

// maxRequestBytes bounds the field: far above what names of the greatest length need.
const maxRequestBytes = 2000

// ParseRequest reads the value of an X-DKIM-Options field: "s=SELECTOR; d=DOMAIN; i=IDENTITY;
// q=METHOD; key-list=NAME", each of them optional, folded or not. Tags of other names are passed
// over, as RFC 6376 section 3.2 has it. The empty text is the zero Request.
func ParseRequest(text string) (Request, error) {
	var r Request
	if len(text) > maxRequestBytes {
		return r, fmt.Errorf("DKIM options of more than %d bytes", maxRequestBytes)
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(text, ";") {
		if part = strings.Trim(part, " \t\r\n"); part == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "=")
		name = strings.ToLower(strings.TrimRight(name, " \t\r\n"))
		value = strings.TrimLeft(value, " \t\r\n")
		if !ok || value == "" {
			return Request{}, fmt.Errorf("DKIM option %q has no value", name)
		}
		if seen[name] {
			return Request{}, fmt.Errorf("DKIM option %s= occurs twice", name)
		}
		seen[name] = true
		if err := r.set(name, value); err != nil {
			return Request{}, err
		}
	}
	if r.Domain != "" && r.identity.domain != "" && !within(r.identity.domain, r.Domain) {
		return Request{}, errors.New("DKIM option i= does not lie within d=") // a verifier would refuse it
	}
	return r, nil
}

func (r *Request) set(name, value string) (err error) {
	switch name {
	case "s":
		if !isSelector(value) {
			return fmt.Errorf("DKIM option s=%q is no selector", value)
		}
		r.Selector = value
	case "d":
		var ok bool
		if r.Domain, ok = asciiDomain(value); !ok {
			return fmt.Errorf("DKIM option d=%q is no domain", value)
		}
	case "i":
		if r.identity, err = parseIdentity(value); err != nil {
			return fmt.Errorf("DKIM option i=: %w", err)
		}
	case "q":
		if err := checkQueryMethod(value); err != nil {
			return fmt.Errorf("DKIM option q=: %w", err)
		}
		r.QueryMethod = value
	case "key-list":
		r.KeyList = value
	}
	return nil
}
