package app

import (
	"encoding/binary"
	"errors"
	"strconv"
	"time"

	"carom/sender/deliver"
	"carom/sender/queue"
	"carom/sender/route"
	"carom/sender/schedule"
	"carom/sender/spool"
)

// tag is what queueing needs of a message. It lies in the spool's indexes, so that a node that starts
// queues its mail without reading it.
type tag struct {
	VMTA, Job, Tenant string
	Expires           time.Time // zero: by configuration
	Priority          uint8     // within a queue
	Windows           schedule.Schedule
	Domains           []string // of the recipients, each once
	Of                []uint32 // which of Domains, for each recipient; nil if there is one
}

// maxTag is what the spool takes. A message with more different recipients has no tag.
const maxTag = 4 << 10

const tagVersion = 1

var errTag = errors.New("malformed tag")

// tagOf makes the tag of a message.
func tagOf(e *spool.Envelope) tag {
	t := tag{VMTA: e.VMTA, Job: e.Job, Tenant: e.Tenant, Expires: e.Expires, Priority: queue.DefaultPriority}
	if p, err := strconv.ParseUint(e.Attrs[attrPriority], 10, 8); err == nil {
		t.Priority = uint8(p)
	}
	if text := e.Attrs[deliver.AttrSchedule]; text != "" {
		t.Windows, _ = schedule.Parse(text, time.UTC) // the node wrote it itself
	}
	if len(e.Recipients) == 1 {
		t.Domains = []string{route.Domain(e.Recipients[0].Address)}
		return t
	}
	known := make(map[string]uint32)
	t.Of = make([]uint32, len(e.Recipients))
	for i := range e.Recipients {
		domain := route.Domain(e.Recipients[i].Address)
		at, ok := known[domain]
		if !ok {
			at = uint32(len(t.Domains)) //nolint:gosec // bounded by the server
			known[domain] = at
			t.Domains = append(t.Domains, domain)
		}
		t.Of[i] = at
	}
	if len(t.Domains) == 1 {
		t.Of = nil
	}
	return t
}

// domain returns the domain of a recipient.
func (t *tag) domain(recipient uint32) string {
	if t.Of == nil {
		return t.Domains[0]
	}
	return t.Domains[t.Of[recipient]]
}

// encode returns the tag's bytes, or nil if they are too many. They are the version, the priority,
// and, with every number a uvarint and every text behind its length: microseconds of the expiry or 0,
// VMTA, job, tenant, the schedule as text, number of domains, domains, number of recipients or 0 if there is one domain, and
// for each which domain.
func (t *tag) encode() []byte {
	b := make([]byte, 0, 64)
	b = append(b, tagVersion, t.Priority)
	expires := uint64(0)
	if !t.Expires.IsZero() {
		expires = uint64(max(t.Expires.UnixMicro(), 1)) //nolint:gosec // not negative
	}
	b = binary.AppendUvarint(b, expires)
	for _, s := range [...]string{t.VMTA, t.Job, t.Tenant, t.Windows.String()} {
		b = appendText(b, s)
	}
	b = binary.AppendUvarint(b, uint64(len(t.Domains)))
	for _, d := range t.Domains {
		b = appendText(b, d)
	}
	b = binary.AppendUvarint(b, uint64(len(t.Of)))
	for _, i := range t.Of {
		b = binary.AppendUvarint(b, uint64(i))
	}
	if len(b) > maxTag {
		return nil
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// tagReader decodes tags. Texts that come again and again are in memory once.
type tagReader struct{ texts map[string]string }

// maxTagTexts bounds what a tagReader remembers.
const maxTagTexts = 1 << 16

// decode decodes what encode returned for a message with so many recipients.
func (r *tagReader) decode(b []byte, recipients int) (t tag, err error) {
	if len(b) < 2 || b[0] != tagVersion {
		return t, errTag
	}
	t.Priority, b = b[1], b[2:]
	ok := true
	number := func() int {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > 1<<62 {
			b, ok = nil, false
			return 0
		}
		b = b[w:]
		return int(n) //nolint:gosec // at most 1<<62
	}
	text := func() string {
		n := number()
		if n > len(b) {
			b, ok = nil, false
			return ""
		}
		s := r.text(b[:n])
		b = b[n:]
		return s
	}
	if micros := number(); micros > 0 {
		t.Expires = time.UnixMicro(int64(micros)).UTC()
	}
	t.VMTA, t.Job, t.Tenant = text(), text(), text()
	if windows := text(); windows != "" {
		if t.Windows, err = schedule.Parse(windows, time.UTC); err != nil {
			return tag{}, errTag
		}
	}
	domains := number()
	if domains == 0 || domains > len(b) {
		return tag{}, errTag
	}
	t.Domains = make([]string, domains)
	for i := range t.Domains {
		t.Domains[i] = text()
	}
	of := number()
	if of > len(b) || (of == 0) != (domains == 1) || of != 0 && of != recipients {
		return tag{}, errTag
	}
	if of > 0 {
		t.Of = make([]uint32, of)
	}
	for i := range t.Of {
		at := number()
		if at >= domains {
			return tag{}, errTag
		}
		t.Of[i] = uint32(at) //nolint:gosec // less than the length of a tag
	}
	if !ok || len(b) > 0 {
		return tag{}, errTag
	}
	return t, nil
}

func (r *tagReader) text(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if s, ok := r.texts[string(b)]; ok {
		return s
	}
	if r.texts == nil || len(r.texts) >= maxTagTexts {
		r.texts = make(map[string]string)
	}
	s := string(b)
	r.texts[s] = s
	return s
}
