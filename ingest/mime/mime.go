// Package mime reads internet messages (RFC 5322, RFC 2045 to 2049) for the parsers of reports:
// the message's header and a flat list of its parts with decoded bodies.
//
// It is lenient in syntax and strict in size. Broken boundaries, missing blank lines, lines that
// end in CR or LF alone and lines that are no header fields are read around; what exceeds Limits
// ends in a *LimitError. Messages inside the message (message/rfc822) are leaves: a report that
// somebody forwards is not that somebody's report.
//
// Headers, transfer encodings and charsets are go-message's; the cutting into parts is done here,
// on the bytes, because nested readers cost time by depth and stop at the first broken boundary.
// Time and memory are linear in the size of the message. Nothing here panics, keeps state or
// touches network, disk or clock; everything is safe for concurrent use as long as nobody changes
// the bytes that were given to Parse, which the parts share.
package mime

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	stdmime "mime"
	"net/mail"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-message"
	_ "github.com/emersion/go-message/charset" // registers the charsets that message.New decodes
)

// Header is the header of a message or of a part. Get, Values and Text are what callers need;
// the zero value is an empty header.
type Header = message.Header

// Limits bounds what Parse and Read accept. A field that is zero or negative stands for its
// default.
type Limits struct {
	MessageBytes int // of the whole message; default 32 MiB
	HeaderBytes  int // of the header of the message or of one part; default 256 KiB
	BodyBytes    int // of one decoded body, which is cut there; default 4 MiB
	Depth        int // of multiparts inside multiparts; default 16
	Parts        int // leaves of the whole message; default 1000
}

// The defaults are far above what reports need (a few KB, three parts, one multipart) and keep
// the worst input well below a second.
const (
	defaultMessageBytes = 32 << 20
	defaultHeaderBytes  = 256 << 10
	defaultBodyBytes    = 4 << 20
	defaultDepth        = 16
	defaultParts        = 1000
)

// maxBoundary is the longest boundary that is honoured, in bytes. RFC 2046 section 5.1.1 allows 70.
const maxBoundary = 256

// maxContentType is the longest Content-Type that is parsed, in bytes; RFC 2231 continuations of
// a file name stay far below it.
const maxContentType = 16 << 10

func (l Limits) withDefaults() Limits {
	for _, field := range []struct {
		value    *int
		standard int
	}{
		{&l.MessageBytes, defaultMessageBytes},
		{&l.HeaderBytes, defaultHeaderBytes},
		{&l.BodyBytes, defaultBodyBytes},
		{&l.Depth, defaultDepth},
		{&l.Parts, defaultParts},
	} {
		if *field.value <= 0 {
			*field.value = field.standard
		}
	}
	return l
}

// ErrEmpty is returned for a message without a byte in it.
var ErrEmpty = errors.New("empty message")

// LimitError says which of the Limits a message exceeds.
type LimitError struct {
	What  string // "message bytes", "header bytes", "depth" or "parts"
	Limit int
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("message exceeds the limit of %d %s", e.Limit, e.What)
}

// Message is a message that was read.
type Message struct {
	Header    Header
	MediaType string            // of the whole message, lower-case: "multipart/report"
	Params    map[string]string // of its Content-Type, names lower-case; may be nil
	Parts     []Part            // the leaves in their order; one if the message is no multipart
}

// Part is a leaf: a part that is no multipart.
type Part struct {
	Header    Header
	MediaType string            // lower-case; "text/plain" if the part says nothing
	Params    map[string]string // of its Content-Type, names lower-case; may be nil
	Body      []byte            // without transfer encoding, text in UTF-8 where the charset is known
	Cut       bool              // Body ends at Limits.BodyBytes
	Depth     int               // number of multiparts around it
}

// Read reads a message from r and parses it. Besides Parse's errors it returns those of r,
// wrapped. It reads no more than one byte beyond limits.MessageBytes.
func Read(r io.Reader, limits Limits) (*Message, error) {
	limits = limits.withDefaults()
	data, err := io.ReadAll(io.LimitReader(r, int64(limits.MessageBytes)+1))
	if err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	return Parse(data, limits)
}

// Parse parses a message. It returns ErrEmpty, a *LimitError or nothing: whatever else is wrong
// with a message is read around. The bodies of the result share data.
func Parse(data []byte, limits Limits) (*Message, error) {
	limits = limits.withDefaults()
	if len(data) > limits.MessageBytes {
		return nil, &LimitError{"message bytes", limits.MessageBytes}
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, ErrEmpty
	}
	data = withLineFeeds(data)
	header, body, err := ParseHeader(data, limits.HeaderBytes)
	if err != nil {
		return nil, err
	}
	m := &Message{Header: header}
	m.MediaType, m.Params = contentType(header, "text/plain")
	w := walk{limits: limits, message: m}
	if err := w.entity(header, m.MediaType, m.Params, body, 0); err != nil {
		return nil, err
	}
	return m, nil
}

// Part returns the first leaf with one of the media types, or nil.
func (m *Message) Part(mediaTypes ...string) *Part {
	for i := range m.Parts {
		if slices.Contains(mediaTypes, m.Parts[i].MediaType) {
			return &m.Parts[i]
		}
	}
	return nil
}

// Original returns the header of the message that a report returns: of its first message or
// header part (RFC 3462, now RFC 6522; RFC 6533 for the global types). ok is false without one.
// A header longer than Limits allow is cut.
func (m *Message) Original() (header Header, ok bool) {
	part := m.Part("message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers",
		"text/rfc822-header", "message/rfc822-headers") // the last two are common misspellings
	if part == nil {
		return Header{}, false
	}
	// A header that is too long comes back as far as the limit goes, and that is enough here.
	header, _, _ = ParseHeader(bytes.TrimLeft(part.Body, "\r\n"), defaultHeaderBytes)
	return header, true
}

// Text returns the human-readable part of a report: the body of the first text/plain leaf.
func (m *Message) Text() string {
	if part := m.Part("text/plain"); part != nil {
		return string(part.Body)
	}
	return ""
}

type walk struct {
	limits  Limits
	message *Message
}

func (w *walk) entity(header Header, mediaType string, params map[string]string, body []byte, depth int) error {
	boundary := params["boundary"]
	if !strings.HasPrefix(mediaType, "multipart/") || boundary == "" || len(boundary) > maxBoundary {
		return w.leaf(header, mediaType, params, body, depth)
	}
	if depth >= w.limits.Depth {
		return &LimitError{"depth", w.limits.Depth}
	}
	standard := "text/plain"
	if mediaType == "multipart/digest" { // RFC 2046 section 5.1.5
		standard = "message/rfc822"
	}
	found := false
	for part := range split(body, boundary) {
		found = true
		partHeader, partBody, err := ParseHeader(part, w.limits.HeaderBytes)
		if err != nil {
			return err
		}
		partType, partParams := contentType(partHeader, standard)
		if err := w.entity(partHeader, partType, partParams, partBody, depth+1); err != nil {
			return err
		}
	}
	if !found { // the boundary never comes: the text is better than nothing
		return w.leaf(header, "text/plain", nil, body, depth)
	}
	return nil
}

func (w *walk) leaf(header Header, mediaType string, params map[string]string, body []byte, depth int) error {
	if len(w.message.Parts) >= w.limits.Parts {
		return &LimitError{"parts", w.limits.Parts}
	}
	part := Part{Header: header, MediaType: mediaType, Params: params, Depth: depth}
	part.Body, part.Cut = decode(header, mediaType, params, body, w.limits.BodyBytes)
	w.message.Parts = append(w.message.Parts, part)
	return nil
}

// decode undoes transfer encoding and charset as far as they are known and the input is sound.
func decode(header Header, mediaType string, params map[string]string, body []byte, limit int) (decoded []byte, cut bool) {
	if isPlain(header, mediaType, params) {
		return cutAt(body, limit)
	}
	// An error says that encoding or charset is unknown; the entity then reads the rest undone.
	entity, _ := message.New(header, bytes.NewReader(body))
	// An error says that the encoding is broken from there on; what stands before it is used.
	decoded, _ = io.ReadAll(io.LimitReader(entity.Body, int64(limit)+1))
	return cutAt(decoded, limit)
}

// isPlain reports whether a body is its own decoded form, so that it need not be copied.
func isPlain(header Header, mediaType string, params map[string]string) bool {
	switch strings.ToLower(strings.TrimSpace(header.Get("Content-Transfer-Encoding"))) {
	case "", "7bit", "8bit", "binary":
	default:
		return false
	}
	if !strings.HasPrefix(mediaType, "text/") {
		return true
	}
	switch strings.ToLower(params["charset"]) {
	case "", "us-ascii", "utf-8":
		return true
	}
	return false
}

func cutAt(body []byte, limit int) (rest []byte, cut bool) {
	if len(body) > limit {
		return body[:limit:limit], true
	}
	return body, false
}

// contentType returns the media type of a header and its parameters, or standard. Of a value that
// RFC 2045 does not allow it takes the type and the boundary.
func contentType(header Header, standard string) (mediaType string, params map[string]string) {
	value := header.Get("Content-Type")
	if value == "" {
		return standard, nil
	}
	if len(value) > maxContentType {
		value = value[:maxContentType]
	}
	mediaType, params, err := stdmime.ParseMediaType(value)
	if err == nil || mediaType != "" && params["boundary"] != "" {
		return mediaType, params
	}
	mediaType, rest, _ := strings.Cut(value, ";")
	mediaType = strings.ToLower(strings.TrimSpace(mediaType))
	if !strings.Contains(mediaType, "/") || strings.ContainsAny(mediaType, " \t") {
		mediaType = standard
	}
	const name = "boundary="
	for i := 0; i+len(name) <= len(rest); i++ {
		if strings.EqualFold(rest[i:i+len(name)], name) {
			return mediaType, map[string]string{"boundary": looseValue(rest[i+len(name):])}
		}
	}
	return mediaType, nil
}

// looseValue returns the parameter value at the beginning of s, quoted or not.
func looseValue(s string) string {
	s = strings.TrimLeft(s, " \t")
	if quoted, ok := strings.CutPrefix(s, `"`); ok {
		value, _, _ := strings.Cut(quoted, `"`)
		return value
	}
	if end := strings.IndexAny(s, "; \t\r\n"); end >= 0 {
		s = s[:end]
	}
	return s
}

// maxDate bounds a date field: net/mail reads comments recursively.
const maxDate = 128

// Date reads a date of RFC 5322 section 3.3; the zero time stands for what is none.
func Date(value string) time.Time {
	if len(value) > maxDate {
		return time.Time{}
	}
	t, err := mail.ParseDate(value)
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}
