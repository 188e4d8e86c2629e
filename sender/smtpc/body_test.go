package smtpc

import (
	"bufio"
	"bytes"
	"errors"
	"net/textproto"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// dotted sends body in the given chunk sizes and returns what went over the wire.
func dotted(chunks [][]byte) (string, error) {
	var out bytes.Buffer
	d := dotWriter{w: bufio.NewWriterSize(&out, 64)}
	for _, chunk := range chunks {
		if _, err := d.Write(chunk); err != nil {
			return out.String(), err
		}
	}
	err := d.finish()
	return out.String(), err
}

func TestDotWriter(t *testing.T) {
	for _, tc := range []struct {
		name   string
		chunks []string
		want   string
		err    error
	}{
		{"nothing", nil, ".\r\n", nil},
		{"empty write", []string{""}, ".\r\n", nil},
		{"plain", []string{"a\r\nb\r\n"}, "a\r\nb\r\n.\r\n", nil},
		{"no end of line", []string{"a"}, "a\r\n.\r\n", nil},
		{"dot first", []string{".a\r\n"}, "..a\r\n.\r\n", nil},
		{"dots after dots", []string{"..\r\n.\r\n"}, "...\r\n..\r\n.\r\n", nil},
		{"dot in a chunk of its own", []string{"a\r\n", ".", "\r\n"}, "a\r\n..\r\n.\r\n", nil},
		{"dot not at a line's beginning", []string{"a", ".b\r\n"}, "a.b\r\n.\r\n", nil},
		{"CRLF cut in two", []string{"a\r", "\n.b\r\n"}, "a\r\n..b\r\n.\r\n", nil},
		{"CRLF cut in two before a chunk's dot", []string{"a\r", "\n", ".b\r\n"}, "a\r\n..b\r\n.\r\n", nil},
		{"bare LF", []string{"a\nb\r\n"}, "", ErrBareLineEnd},
		{"bare LF before dot", []string{"a\r\n\n.\r\nb"}, "", ErrBareLineEnd},
		{"bare LF first", []string{"\n.\r\n"}, "", ErrBareLineEnd},
		{"bare LF in its own chunk", []string{"a\r\n", "\n"}, "", ErrBareLineEnd},
		{"bare CR", []string{"a\rb\r\n"}, "", ErrBareLineEnd},
		{"bare CR at a chunk's end", []string{"a\r", "b\r\n"}, "", ErrBareLineEnd},
		{"CR CR LF", []string{"a\r\r\n"}, "", ErrBareLineEnd},
		{"CR last", []string{"a\r"}, "", ErrBareLineEnd},
		{"CR dot CR", []string{"\r.\r"}, "", ErrBareLineEnd},
	} {
		t.Run(tc.name, func(t *testing.T) {
			chunks := make([][]byte, 0, len(tc.chunks))
			for _, c := range tc.chunks {
				chunks = append(chunks, []byte(c))
			}
			got, err := dotted(chunks)
			if !errors.Is(err, tc.err) {
				t.Fatalf("%q: error %v, want %v", tc.chunks, err, tc.err)
			}
			if err == nil && got != tc.want {
				t.Errorf("%q: got %q, want %q", tc.chunks, got, tc.want)
			}
		})
	}
}

// TestDotWriterProperty: whatever the chunks, a message either arrives as it was, or is refused
// for a bare line end and never ended by anything that looks like the end of data.
func TestDotWriterProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOf(rapid.SampledFrom([]string{
			"\r\n", ".", "a", "\r\n.", "..", "\r\n.\r\n", "", "long line", "\r", "\n",
		})).Draw(t, "pieces")
		message := strings.Join(pieces, "")
		chunks := make([][]byte, 0, len(pieces))
		for _, piece := range pieces {
			chunks = append(chunks, []byte(piece))
		}
		got, err := dotted(chunks)
		bare := strings.ContainsAny(strings.ReplaceAll(message, "\r\n", ""), "\r\n")
		if bare != errors.Is(err, ErrBareLineEnd) {
			t.Fatalf("%q: error %v", message, err)
		}
		if bare {
			for _, end := range []string{"\n.\n", "\n.\r", "\r.\r", "\r.\n"} {
				if strings.Contains(got, end) {
					t.Fatalf("%q: refused, but %q went out", message, got)
				}
			}
			return
		}
		r := bufio.NewReader(strings.NewReader(got))
		lines, err := textproto.NewReader(r).ReadDotLines()
		if err != nil || r.Buffered() > 0 {
			t.Fatalf("%q: wire %q: error %v, %d bytes behind the end", message, got, err, r.Buffered())
		}
		want := strings.TrimSuffix(message, "\r\n")
		if message == "" {
			lines = append(lines, "")
		}
		if back := strings.Join(lines, "\r\n"); back != want {
			t.Fatalf("arrived as %q, want %q", back, want)
		}
	})
}

func TestSendable(t *testing.T) {
	for address, want := range map[string]bool{
		"":                         true, // the null sender
		"a@example.com":            true,
		"ü@example.com":            true,
		`"a b>"@example.com`:       true,
		`"a\"b"@example.com`:       true,
		"a b@example.com":          false,
		"a>@example.com":           false,
		"a\r\nRSET@example.com":    false,
		"\"a\r\n\"@example.com":    false,
		"\"a\\\r\n\"@example.com":  false,
		`"open@example.com`:        false,
		`"ends with backslash\`:    false,
		"a\x00@example.com":        false,
		"a\x7f@example.com":        false,
		"a@example.com> NOTIFY=<b": false,
	} {
		if got := sendable(address); got != want {
			t.Errorf("sendable(%q) = %v, want %v", address, got, want)
		}
	}
}
