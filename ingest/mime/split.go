package mime

import (
	"bytes"
	"iter"
)

// withLineFeeds returns data with CR as LF if no line of it ends in LF, as old mailers write.
func withLineFeeds(data []byte) []byte {
	if bytes.IndexByte(data, '\n') >= 0 || bytes.IndexByte(data, '\r') < 0 {
		return data
	}
	return bytes.ReplaceAll(data, []byte{'\r'}, []byte{'\n'})
}

// cutLine returns the first line of data without its end, and what follows it. A line may end in
// more than one CR: a program that writes CRLF for LF was given CRLF.
func cutLine(data []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(data, []byte{'\n'})
	for len(line) > 0 && line[len(line)-1] == '\r' {
		line = line[:len(line)-1]
	}
	return line, rest
}

// split yields the parts of a multipart body, RFC 2046 section 5.1.1. What stands before the
// first delimiter and behind the closing one is left out; a missing closing delimiter is at the
// end of body.
func split(body []byte, boundary string) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		delimiter := []byte("--" + boundary)
		start := -1 // of the part that is open
		for at := 0; ; {
			found := bytes.Index(body[at:], delimiter)
			if found < 0 {
				break
			}
			line := at + found
			end, closing, ok := delimiterEnd(body, line, len(delimiter))
			if !ok {
				at = line + len(delimiter)
				continue
			}
			if start >= 0 && !yield(trimLineEnd(body[start:max(start, line)])) {
				return
			}
			if closing {
				return
			}
			start, at = end, end
		}
		if start >= 0 && start < len(body) {
			yield(body[start:])
		}
	}
}

// delimiterEnd reports whether the boundary of n bytes at position line of body is a delimiter
// line, where the next line begins and whether it is the closing one.
func delimiterEnd(body []byte, line, n int) (end int, closing, ok bool) {
	if line > 0 && body[line-1] != '\n' {
		return 0, false, false
	}
	rest := body[line+n:]
	if bytes.HasPrefix(rest, []byte("--")) {
		closing, rest = true, rest[2:]
	}
	length := bytes.IndexByte(rest, '\n')
	if length < 0 {
		length = len(rest)
	}
	if len(bytes.TrimSpace(rest[:length])) > 0 {
		return 0, false, false // a longer boundary that begins with this one
	}
	return min(len(body), len(body)-len(rest)+length+1), closing, true
}

// isDelimited reports whether boundary divides body.
func isDelimited(body []byte, boundary string) bool {
	if boundary == "" {
		return false
	}
	for range split(body, boundary) {
		return true
	}
	return false
}

// maxGuess is how far a boundary is looked for that the header does not give, in bytes.
const maxGuess = 64 << 10

// guessBoundary returns the boundary of a multipart whose header gives none, or another one: that
// of the first line that looks like a delimiter and is followed by a field of a part's header. It
// returns "" if there is none.
func guessBoundary(body []byte) string {
	body = body[:min(len(body), maxGuess)]
	for len(body) > 0 {
		line, rest := cutLine(body)
		body = rest
		if !bytes.HasPrefix(line, []byte("--")) {
			continue
		}
		boundary := bytes.TrimRight(line[2:], " \t")
		if len(boundary) == 0 || len(boundary) > maxBoundary {
			continue
		}
		next, _ := cutLine(rest)
		if colon := fieldColon(next); colon > len("Content-") && isNamed(next[:len("Content-")], "Content-") {
			return string(boundary)
		}
	}
	return ""
}

func trimLineEnd(b []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte{'\n'}), []byte{'\r'})
}
