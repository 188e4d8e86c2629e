package config

import (
	"fmt"
	"net/textproto"
	"strings"
)

// HeaderLines are the fields of a file that include-headers-from names. The zero value is none.
type HeaderLines struct {
	Path string
	Text string // whole fields with CRLF line ends
}

// String returns the file's path.
func (h HeaderLines) String() string { return h.Path }

// maxHeaderLines bounds such a file, in bytes: it goes into each message.
const maxHeaderLines = 16 << 10

func headerLines(v *value) (HeaderLines, error) {
	path, err := filePath(v)
	if err != nil {
		return HeaderLines{}, err
	}
	data, err := v.files.ReadFile(path)
	if err != nil {
		return HeaderLines{}, fmt.Errorf("%s: %s", path, fileProblem(err))
	}
	if len(data) > maxHeaderLines {
		return HeaderLines{}, fmt.Errorf("%s holds more than %d bytes", path, maxHeaderLines)
	}
	var b strings.Builder
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		line = strings.TrimRight(line, blanks)
		if line == "" {
			continue
		}
		name, _, isField := strings.Cut(line, ":")
		folded := line[0] == ' ' || line[0] == '\t'
		if folded && b.Len() == 0 || !folded && (!isField || !isFieldName(name)) || strings.ContainsAny(line, "\r\x00") {
			return HeaderLines{}, fmt.Errorf("%s, line %d: it is no header field (Name: value)", path, number)
		}
		b.WriteString(line + "\r\n")
	}
	return HeaderLines{path, b.String()}, nil
}

// isFieldName reports whether s may be the name of a header field (RFC 5322 2.2).
func isFieldName(s string) bool {
	return s != "" && textproto.TrimString(s) == s && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// HeadersOf returns the fields that go into each message of the vmta: those of the global
// include-headers-from, of its pools' and of its own.
func (c *Config) HeadersOf(m *VMTA) string {
	text := c.includeHeaders.Text
	for _, name := range m.Pools {
		if p, ok := c.Pool(name); ok {
			text += p.includeHeaders.Text
		}
	}
	return text + m.includeHeaders.Text
}
