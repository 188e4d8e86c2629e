// Package mime reads internet messages (RFC 5322, RFC 2045 to 2049) for the parsers of reports:
// the message's header and a flat list of its parts with decoded bodies.
//
// It is lenient in syntax and strict in size. Broken boundaries, missing blank lines, lines that
// end in CR or LF alone, lines that are no header fields and broken encodings are read around. What
// exceeds Limits is left away, and Message.Cut says which limit it was: what stands before may be
// all that a report has to say. Messages inside the message (message/rfc822) are leaves: a report
// that somebody forwards is not that somebody's report.
//
// Charsets are go-message's, HTML is x/net/html's. The rest is done here, on the bytes: nested
// readers cost time by depth and stop at the first mistake, and a report is mostly header. Time and
// memory are linear in the size of the message. Nothing here panics, keeps state or touches
// network, disk or clock; everything is safe for concurrent use as long as nobody changes the bytes
// that were given to Parse, which the parts share.
package mime

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"slices"
	"strings"
	"time"
)

// Limits bounds what Parse and Read accept. A field that is zero or negative stands for its
// default.
type Limits struct {
	MessageBytes int // of the whole message; default 8 MiB
	HeaderBytes  int // of the header of the message or of one part; default 256 KiB
	BodyBytes    int // of one decoded body; default 4 MiB
	Depth        int // of multiparts inside multiparts, below which one is a leaf; default 16
	Parts        int // leaves of the whole message; default 1000
}

// The defaults are far above what reports need (a few KB, three parts, one multipart; what a report
// says stands before the message that it returns) and keep the worst input well below a second.
const (
	defaultMessageBytes = 8 << 20
	defaultHeaderBytes  = 256 << 10
	defaultBodyBytes    = 4 << 20
	defaultDepth        = 16
	defaultParts        = 1000
)

// maxBoundary is the longest boundary that is honoured, in bytes. RFC 2046 section 5.1.1 allows 70.
const maxBoundary = 256

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
	What  string // "message bytes", "header bytes", "body bytes", "depth" or "parts"
	Limit int
}

// messageBytes is LimitError.What for a message that is too long.
const messageBytes = "message bytes"

func (e *LimitError) Error() string {
	return fmt.Sprintf("message exceeds the limit of %d %s", e.Limit, e.What)
}

// Message is a message that was read.
type Message struct {
	Header    Header
	MediaType string            // of the whole message, lower-case: "multipart/report"
	Params    map[string]string // of its Content-Type, names lower-case; may be nil
	Parts     []Part            // the leaves in their order; one if the message is no multipart
	Cut       *LimitError       // the first limit that the message exceeds; nil if it was read as a whole
}

// Part is a leaf: a part that is no multipart.
type Part struct {
	Header    Header
	MediaType string            // lower-case; "text/plain" if the part says nothing
	Params    map[string]string // of its Content-Type, names lower-case; may be nil
	Body      []byte            // without transfer encoding; text in UTF-8
	Cut       bool              // Body ends at one of the Limits
	Depth     int               // number of multiparts around it
}

// Read reads a message from r and parses it. Besides Parse's error it returns those of r, wrapped.
// It reads no more than one byte beyond limits.MessageBytes.
func Read(r io.Reader, limits Limits) (*Message, error) {
	limits = limits.withDefaults()
	data, err := io.ReadAll(io.LimitReader(r, int64(limits.MessageBytes)+1))
	if err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	return Parse(data, limits)
}

// Parse parses a message. It returns ErrEmpty or nothing: whatever else is wrong with a message is
// read around. The bodies of the result share data.
func Parse(data []byte, limits Limits) (*Message, error) {
	w := walk{limits: limits.withDefaults(), message: &Message{}}
	if len(data) > w.limits.MessageBytes {
		data = data[:w.limits.MessageBytes]
		w.cut(messageBytes, w.limits.MessageBytes)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, ErrEmpty
	}
	data = bytes.TrimLeft(withLineFeeds(data), "\r\n") // some programs begin with empty lines
	header, body := w.header(data)
	m := w.message
	m.Header = header
	m.MediaType, m.Params = contentType(header, "text/plain")
	w.entity(header, m.MediaType, m.Params, body, 0)
	if m.Cut != nil && m.Cut.What == messageBytes {
		m.Parts[len(m.Parts)-1].Cut = true
	}
	if content, ok := m.signed(); ok {
		m.Parts = nil
		header, body := w.header(content)
		m.MediaType, m.Params = contentType(header, "text/plain")
		w.entity(header, m.MediaType, m.Params, body, 1)
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
		"text/rfc822-header", "message/rfc822-headers", "text/rfc822") // the last three are common misspellings
	if part == nil {
		return Header{}, false
	}
	// A header that is too long comes back as far as the limit goes, and that is enough here.
	header, _, _ = ParseHeader(bytes.TrimLeft(part.Body, "\r\n"), defaultHeaderBytes)
	return header, true
}

// Text returns the human-readable part of a report: the body of the first text/plain leaf with
// something in it or, without one, what a reader sees of the first text/html leaf.
func (m *Message) Text() string {
	for i := range m.Parts {
		if part := &m.Parts[i]; part.MediaType == "text/plain" && len(bytes.TrimSpace(part.Body)) > 0 {
			return string(part.Body)
		}
	}
	if part := m.Part("text/html"); part != nil {
		return textOfHTML(part.Body)
	}
	return ""
}

// walk collects the leaves of a message.
type walk struct {
	limits  Limits
	message *Message
}

// cut notes that the message exceeds a limit.
func (w *walk) cut(what string, limit int) {
	if w.message.Cut == nil {
		w.message.Cut = &LimitError{what, limit}
	}
}

func (w *walk) header(data []byte) (header Header, body []byte) {
	header, body, err := ParseHeader(data, w.limits.HeaderBytes)
	if err != nil { // it is too long, and the fields before the limit are there
		w.cut("header bytes", w.limits.HeaderBytes)
	}
	return header, body
}

// entity adds the leaves of an entity. It reports whether there is room for more.
func (w *walk) entity(header Header, mediaType string, params map[string]string, body []byte, depth int) bool {
	if !strings.HasPrefix(mediaType, "multipart/") {
		return w.leaf(header, mediaType, params, body, depth)
	}
	if depth >= w.limits.Depth {
		w.cut("depth", w.limits.Depth)
		return w.leaf(header, mediaType, params, body, depth)
	}
	standard := "text/plain"
	if mediaType == "multipart/digest" { // RFC 2046 section 5.1.5
		standard = "message/rfc822"
	}
	boundary := params["boundary"]
	if len(boundary) > maxBoundary || !isDelimited(body, boundary) {
		boundary = guessBoundary(body)
	}
	if boundary == "" { // the text is better than nothing
		return w.leaf(header, "text/plain", nil, body, depth)
	}
	found := false
	for part := range split(body, boundary) {
		found = true
		partHeader, partBody := w.header(part)
		partType, partParams := contentType(partHeader, standard)
		if !w.entity(partHeader, partType, partParams, partBody, depth+1) {
			return false
		}
	}
	if !found { // the boundary ends before a part begins
		return w.leaf(header, "text/plain", nil, body, depth)
	}
	return true
}

func (w *walk) leaf(header Header, mediaType string, params map[string]string, body []byte, depth int) bool {
	if len(w.message.Parts) >= w.limits.Parts {
		w.cut("parts", w.limits.Parts)
		return false
	}
	part := Part{Header: header, MediaType: mediaType, Params: params, Depth: depth}
	part.Body, part.Cut = decode(header.Get("Content-Transfer-Encoding"), mediaType, params["charset"], body, w.limits.BodyBytes)
	if part.Cut {
		w.cut("body bytes", w.limits.BodyBytes)
	}
	w.message.Parts = append(w.message.Parts, part)
	return true
}

// maxDate bounds a date field: net/mail reads comments recursively.
const maxDate = 128

// Date reads a date of RFC 5322 section 3.3; the zero time stands for what is none.
func Date(value string) time.Time {
	if len(value) > maxDate {
		return time.Time{}
	}
	usual, _, _ := strings.Cut(value, " (") // net/mail tries thirty layouts; most programs write this one
	t, err := time.Parse("Mon, 2 Jan 2006 15:04:05 -0700", usual)
	if err != nil {
		t, err = mail.ParseDate(value)
	}
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}
