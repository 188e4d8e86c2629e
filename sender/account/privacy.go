package account

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"math/bits"
	"strings"

	"carom/schemas/event"
)

// The ways of hiding recipients, as privacy-policy names them.
const (
	Redact  = "redact" // by the key, which is no secret here
	SIPHash = "siphash"
	HMAC    = "hmac-sha256"
)

// sipKey is the length of SipHash's key in octets. Shorter ones are filled up with zeros.
const sipKey = 16

// Privacy hides the local parts of recipients, wherever an event shows them: behind a fixed text, or
// behind a keyed hash of the local part in lower case, as hexadecimal digits, by which the events of
// one recipient can still be put together. It is safe for concurrent use.
type Privacy struct{ replace func(local string) string }

// NewPrivacy returns a policy. It fails for an unknown way, and for a key of SipHash of more than 16
// octets.
func NewPrivacy(way string, key []byte) (*Privacy, error) {
	switch way {
	case Redact:
		text := string(key)
		return &Privacy{func(string) string { return text }}, nil
	case SIPHash:
		if len(key) > sipKey {
			return nil, fmt.Errorf("a key of %d octets; siphash takes %d at most", len(key), sipKey)
		}
		var whole [sipKey]byte
		copy(whole[:], key)
		return &Privacy{func(local string) string { return fmt.Sprintf("%016x", sipHash(&whole, strings.ToLower(local))) }}, nil
	case HMAC:
		return &Privacy{func(local string) string {
			mac := hmac.New(sha256.New, key)
			_, _ = mac.Write([]byte(strings.ToLower(local))) // a hash takes everything
			return hex.EncodeToString(mac.Sum(nil))
		}}, nil
	}
	return nil, fmt.Errorf("unknown privacy policy %q", way)
}

// Hide changes e, whose maps it replaces and does not change. The key of the recipient, which is a
// hash of its own, stays.
func (p *Privacy) Hide(e *event.Event) {
	hidden := p.hider(e.Recipient)
	original := p.hider(lastPart(e.Headers["ORCPT"]))
	e.Reply = p.hideAddresses(e.Reply, e.MailFrom) // first: what is hidden must not be hidden again
	for _, text := range []*string{&e.Recipient, &e.MailFrom, &e.Reply, &e.ReplyTemplate, &e.ScopeValue} {
		*text = original.hide(hidden.hide(*text))
	}
	if len(e.Headers) == 0 {
		return
	}
	e.Headers = maps.Clone(e.Headers)
	for name, value := range e.Headers {
		if namesRecipients[strings.ToLower(name)] {
			value = p.hideAddresses(value, "")
		}
		e.Headers[name] = original.hide(hidden.hide(value))
	}
}

// namesRecipients lists the headers, and fields of feedback reports, with addresses of recipients: of
// others too than the one that the event is about.
var namesRecipients = map[string]bool{
	"to": true, "cc": true, "bcc": true, "resent-to": true, "resent-cc": true, "delivered-to": true, "x-original-to": true, "envelope-to": true,
	"apparently-to": true, "x-failed-recipients": true, "x-rcpt-to": true, "arf_original-rcpt-to": true, "arf_removal-recipient": true,
}

// hideAddresses hides the local part of every address in text but those of keep, and of the roles of
// RFC 2142 section 4 that replies name for questions. A receiver may name others than the recipient: who
// he has become, or whom else a message was for.
func (p *Privacy) hideAddresses(text, keep string) string {
	var b strings.Builder
	done := 0
	for at := range len(text) {
		if text[at] != '@' || at+1 == len(text) || !inWord(text[at+1]) {
			continue
		}
		start := at
		for start > done && (inWord(text[start-1]) || strings.IndexByte("!#$%&'*+-/=?^_`{|}~.", text[start-1]) >= 0) { // RFC 5322 section 3.2.3
			start--
		}
		local := text[start:at]
		if local == "" || strings.EqualFold(local, "postmaster") || strings.EqualFold(local, "abuse") || keep != "" && strings.HasPrefix(keep, local+"@") {
			continue
		}
		b.WriteString(text[done:start])
		b.WriteString(p.replace(local))
		done = at
	}
	if done == 0 {
		return text
	}
	b.WriteString(text[done:])
	return b.String()
}

// lastPart returns the address of an ORCPT, behind its type (RFC 3461 section 4.2).
func lastPart(original string) string { return original[strings.LastIndexByte(original, ';')+1:] }

// hider replaces a local part. The zero hider leaves all as it is.
type hider struct{ local, by string }

func (p *Privacy) hider(address string) hider {
	local := address
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		local = address[:at]
	}
	if local == "" {
		return hider{}
	}
	return hider{strings.ToLower(local), p.replace(local)}
}

// hide replaces the local part where it stands as a word of its own, as it does before an @, before the =
// of a VERP return path, and where a reply names the mailbox alone.
func (h hider) hide(text string) string {
	if h.local == "" || len(text) < len(h.local) {
		return text
	}
	var b strings.Builder
	done := 0
	for i := 0; i+len(h.local) <= len(text); {
		end := i + len(h.local)
		if !strings.EqualFold(text[i:end], h.local) || i > 0 && inWord(text[i-1]) || end < len(text) && inWord(text[end]) {
			i++
			continue
		}
		b.WriteString(text[done:i])
		b.WriteString(h.by)
		i, done = end, end
	}
	if done == 0 {
		return text
	}
	b.WriteString(text[done:])
	return b.String()
}

// inWord reports whether c continues a local part on either side. A sign such as "-" or "." does not:
// the return path bounce-ann=example.com@… must not show ann.
func inWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80
}

// sipHash is SipHash-2-4 (Aumasson and Bernstein, 2012).
func sipHash(key *[sipKey]byte, text string) uint64 {
	k0, k1 := binary.LittleEndian.Uint64(key[:8]), binary.LittleEndian.Uint64(key[8:])
	v := [4]uint64{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573}
	last := uint64(len(text)) << 56
	for ; len(text) >= 8; text = text[8:] {
		m := binary.LittleEndian.Uint64([]byte(text[:8]))
		v[3] ^= m
		sipRounds(&v, 2)
		v[0] ^= m
	}
	for i := range len(text) {
		last |= uint64(text[i]) << (8 * i)
	}
	v[3] ^= last
	sipRounds(&v, 2)
	v[0] ^= last
	v[2] ^= 0xff
	sipRounds(&v, 4)
	return v[0] ^ v[1] ^ v[2] ^ v[3]
}

func sipRounds(v *[4]uint64, n int) {
	for range n {
		v[0] += v[1]
		v[1] = bits.RotateLeft64(v[1], 13) ^ v[0]
		v[0] = bits.RotateLeft64(v[0], 32)
		v[2] += v[3]
		v[3] = bits.RotateLeft64(v[3], 16) ^ v[2]
		v[0] += v[3]
		v[3] = bits.RotateLeft64(v[3], 21) ^ v[0]
		v[2] += v[1]
		v[1] = bits.RotateLeft64(v[1], 17) ^ v[2]
		v[2] = bits.RotateLeft64(v[2], 32)
	}
}
