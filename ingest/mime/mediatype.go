package mime

import (
	stdmime "mime"
	"strings"
)

const (
	// maxContentType is the longest Content-Type that is parsed, in bytes; RFC 2231 continuations of
	// a file name stay far below it.
	maxContentType = 4 << 10
	// maxParams is the number of parameters that are taken of a value that RFC 2045 does not allow.
	maxParams = 32
)

// contentType returns the media type of a header and its parameters, or standard. Of a value that
// RFC 2045 does not allow it takes what can be understood.
func contentType(header Header, standard string) (mediaType string, params map[string]string) {
	value := header.Get("Content-Type")
	if value == "" {
		return standard, nil
	}
	value = value[:min(len(value), maxContentType)]
	mediaType, params, err := stdmime.ParseMediaType(value)
	if err == nil && strings.Contains(mediaType, "/") {
		return mediaType, params
	}
	mediaType, rest, _ := strings.Cut(value, ";")
	mediaType = strings.ToLower(strings.TrimSpace(withoutComment(mediaType)))
	if !strings.Contains(mediaType, "/") || strings.ContainsAny(mediaType, " \t") {
		mediaType = standard
	}
	return mediaType, looseParams(rest)
}

// withoutComment returns s without the comment that it may end in: "text/plain (who needs this)".
func withoutComment(s string) string {
	s, _, _ = strings.Cut(s, "(")
	return s
}

// looseParams reads parameters as programs write them that do not know RFC 2045: unquoted values
// with any bytes but blanks and semicolons, comments, repeated names (the first counts), no quote at
// the end.
func looseParams(s string) map[string]string {
	params := map[string]string{}
	for len(s) > 0 && len(params) < maxParams {
		s = strings.TrimLeft(s, "; \t\r\n")
		end := strings.IndexAny(s, "=;")
		if end < 0 {
			break
		}
		if s[end] == ';' {
			s = s[end:]
			continue
		}
		name := strings.ToLower(strings.TrimSpace(s[:end]))
		if blank := strings.LastIndexAny(name, " \t"); blank >= 0 {
			name = name[blank+1:] // what stands before it belongs to nothing
		}
		var value string
		value, s = looseValue(s[end+1:])
		if _, has := params[name]; !has && name != "" {
			params[name] = value
		}
	}
	return params
}

// looseValue returns the parameter value at the beginning of s, quoted or not, and what follows it.
func looseValue(s string) (value, rest string) {
	s = strings.TrimLeft(s, " \t")
	if quoted, ok := strings.CutPrefix(s, `"`); ok {
		value, rest, _ = strings.Cut(quoted, `"`)
		return value, rest
	}
	if end := strings.IndexAny(s, "; \t\r\n"); end >= 0 {
		return s[:end], s[end:]
	}
	return s, ""
}
