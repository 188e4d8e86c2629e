package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"carom/schemas/event"
)

// Envelope is what is stored of a message beside its body. Times are kept to the microsecond and
// returned in UTC.
type Envelope struct {
	ID         event.ID
	From       string // MAIL FROM; empty for the null reverse-path
	Recipients []Recipient
	Arrived    time.Time
	Expires    time.Time // zero: by configuration
	Size       int64     // of the body in bytes, set by Put

	VMTA, Pool           string
	Job, EnvID           string
	Tenant               string
	SourceName, SMTPUser string
	ClientIP             netip.Addr
	ClientHost           string

	Ret      string // RET of MAIL (RFC 3461 section 4.3)
	EightBit bool   // BODY=8BITMIME (RFC 6152)
	UTF8     bool   // SMTPUTF8 (RFC 6531)

	Headers map[string]string // header fields chosen for accounting and events
	Attrs   map[string]string // whatever a later version needs

	// Tag is the owner's: what it needs to queue the message again. Recover gives it back without
	// reading the message. It has at most 4 KiB.
	Tag []byte
}

const maxTagBytes = 4 << 10

// Recipient is one recipient of a message. Its index in Envelope.Recipients is its name
// everywhere else.
type Recipient struct {
	Address string
	ORcpt   string // ORCPT of RCPT (RFC 3461 section 4.2)
	Notify  string // NOTIFY of RCPT (RFC 3461 section 4.1)
}

// Field numbers of an encoded envelope: each field is its number, the length of its value and the
// value; a decoder passes over numbers that it doesn't know.
const (
	fieldID = 1 + iota
	fieldFrom
	fieldRecipient
	fieldArrived
	fieldExpires
	fieldSize
	fieldVMTA
	fieldPool
	fieldJob
	fieldEnvID
	fieldTenant
	fieldSourceName
	fieldSMTPUser
	fieldClientIP
	fieldClientHost
	fieldRet
	fieldEightBit
	fieldUTF8
	fieldHeader
	fieldAttr
	fieldTag
)

// Fields within fieldRecipient, and within fieldHeader and fieldAttr.
const (
	fieldAddress = 1 + iota
	fieldORcpt
	fieldNotify

	fieldKey   = fieldAddress
	fieldValue = fieldORcpt
)

var errEnvelope = fmt.Errorf("%w: malformed envelope", ErrDamaged)

// appendEnvelope appends the encoding of e to b.
func appendEnvelope(b []byte, e *Envelope) []byte {
	b = appendField(b, fieldID, e.ID[:])
	b = appendText(b, fieldFrom, e.From)
	for i := range e.Recipients {
		r := &e.Recipients[i]
		b = append(b, fieldRecipient)
		b = binary.AppendUvarint(b, uint64(1+uvarintLen(uint64(len(r.Address)))+len(r.Address)+textLen(r.ORcpt)+textLen(r.Notify)))
		b = appendField(b, fieldAddress, r.Address)
		b = appendText(b, fieldORcpt, r.ORcpt)
		b = appendText(b, fieldNotify, r.Notify)
	}
	b = appendTime(b, fieldArrived, e.Arrived)
	b = appendTime(b, fieldExpires, e.Expires)
	b = appendInt(b, fieldSize, e.Size)
	b = appendText(b, fieldVMTA, e.VMTA)
	b = appendText(b, fieldPool, e.Pool)
	b = appendText(b, fieldJob, e.Job)
	b = appendText(b, fieldEnvID, e.EnvID)
	b = appendText(b, fieldTenant, e.Tenant)
	b = appendText(b, fieldSourceName, e.SourceName)
	b = appendText(b, fieldSMTPUser, e.SMTPUser)
	if e.ClientIP.Zone() != "" {
		b = appendText(b, fieldClientIP, e.ClientIP.String())
	} else if e.ClientIP.IsValid() {
		b = append(b, fieldClientIP, 0)
		at := len(b)
		b = e.ClientIP.AppendTo(b)
		b[at-1] = byte(len(b) - at) // without a zone it is shorter than 128
	}
	b = appendText(b, fieldClientHost, e.ClientHost)
	b = appendText(b, fieldRet, e.Ret)
	if e.EightBit {
		b = appendField(b, fieldEightBit, "")
	}
	if e.UTF8 {
		b = appendField(b, fieldUTF8, "")
	}
	b = appendMap(b, fieldHeader, e.Headers)
	b = appendMap(b, fieldAttr, e.Attrs)
	if len(e.Tag) > 0 {
		b = appendField(b, fieldTag, e.Tag)
	}
	return b
}

func appendField[V string | []byte](b []byte, field byte, value V) []byte {
	b = append(b, field)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

func appendText(b []byte, field byte, value string) []byte {
	if value == "" {
		return b
	}
	return appendField(b, field, value)
}

// textLen returns how many bytes appendText appends.
func textLen(value string) int {
	if value == "" {
		return 0
	}
	return 1 + uvarintLen(uint64(len(value))) + len(value)
}

func appendInt(b []byte, field byte, n int64) []byte {
	b = append(b, field, 0)
	at := len(b)
	b = binary.AppendVarint(b, n)
	b[at-1] = byte(len(b) - at) // at most binary.MaxVarintLen64
	return b
}

// stored returns a time as it is when it is read again.
func stored(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return time.UnixMicro(t.UnixMicro()).UTC()
}

func appendTime(b []byte, field byte, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return appendInt(b, field, t.UnixMicro())
}

func appendMap(b []byte, field byte, m map[string]string) []byte {
	for k, v := range m {
		b = append(b, field)
		b = binary.AppendUvarint(b, uint64(1+uvarintLen(uint64(len(k)))+len(k)+textLen(v)))
		b = appendField(b, fieldKey, k)
		b = appendText(b, fieldValue, v)
	}
	return b
}

// decodeEnvelope decodes what appendEnvelope appended. The result shares no memory with b.
func decodeEnvelope(b []byte) (*Envelope, error) {
	e := &Envelope{}
	err := eachField(b, func(field byte, v []byte) (err error) {
		switch field {
		case fieldID:
			if len(v) != len(e.ID) {
				return errEnvelope
			}
			copy(e.ID[:], v)
		case fieldFrom:
			e.From = string(v)
		case fieldRecipient:
			var r Recipient
			r, err = decodeRecipient(v)
			e.Recipients = append(e.Recipients, r)
		case fieldArrived:
			e.Arrived, err = decodeTime(v)
		case fieldExpires:
			e.Expires, err = decodeTime(v)
		case fieldSize:
			e.Size, err = decodeInt(v)
		case fieldVMTA:
			e.VMTA = string(v)
		case fieldPool:
			e.Pool = string(v)
		case fieldJob:
			e.Job = string(v)
		case fieldEnvID:
			e.EnvID = string(v)
		case fieldTenant:
			e.Tenant = string(v)
		case fieldSourceName:
			e.SourceName = string(v)
		case fieldSMTPUser:
			e.SMTPUser = string(v)
		case fieldClientIP:
			e.ClientIP, err = netip.ParseAddr(string(v))
		case fieldClientHost:
			e.ClientHost = string(v)
		case fieldRet:
			e.Ret = string(v)
		case fieldEightBit:
			e.EightBit = true
		case fieldUTF8:
			e.UTF8 = true
		case fieldHeader:
			err = decodePair(&e.Headers, v)
		case fieldAttr:
			err = decodePair(&e.Attrs, v)
		case fieldTag:
			if len(v) > maxTagBytes {
				return errEnvelope
			}
			e.Tag = slices.Clone(v)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errEnvelope, err)
	}
	if e.ID == (event.ID{}) || len(e.Recipients) == 0 {
		return nil, errEnvelope
	}
	e.Recipients = slices.Clip(e.Recipients)
	return e, nil
}

// eachField calls f for each field in b.
func eachField(b []byte, f func(field byte, value []byte) error) error {
	for len(b) > 0 {
		n, w := binary.Uvarint(b[1:])
		if w <= 0 || n > uint64(len(b)-1-w) {
			return errors.New("field is cut off")
		}
		end := 1 + w + int(n)
		if err := f(b[0], b[1+w:end]); err != nil {
			return err
		}
		b = b[end:]
	}
	return nil
}

func decodeRecipient(b []byte) (r Recipient, err error) {
	err = eachField(b, func(field byte, v []byte) error {
		switch field {
		case fieldAddress:
			r.Address = string(v)
		case fieldORcpt:
			r.ORcpt = string(v)
		case fieldNotify:
			r.Notify = string(v)
		}
		return nil
	})
	return r, err
}

func decodePair(m *map[string]string, b []byte) error {
	var key, value string
	err := eachField(b, func(field byte, v []byte) error {
		switch field {
		case fieldKey:
			key = string(v)
		case fieldValue:
			value = string(v)
		}
		return nil
	})
	if *m == nil {
		*m = make(map[string]string)
	}
	(*m)[key] = value
	return err
}

func decodeInt(b []byte) (int64, error) {
	n, w := binary.Varint(b)
	if w != len(b) || w <= 0 {
		return 0, errors.New("malformed number")
	}
	return n, nil
}

func decodeTime(b []byte) (time.Time, error) {
	n, err := decodeInt(b)
	return time.UnixMicro(n).UTC(), err
}
