package mime

import (
	"errors"
	"fmt"
	"strings"
)

// errUnknownCharset is behind the error of Header.Text.
var errUnknownCharset = errors.New("unknown charset")

const (
	// maxWords is the number of encoded words that are looked for in one value, about; the longest
	// subjects have twenty. The rest stands as it is.
	maxWords = 1000
	// maxCharset bounds the name of a charset, in bytes.
	maxCharset = 64

	blanks = " \t\r\n"
)

// word is an encoded word of RFC 2047 section 2.
type word struct {
	charset string // lower-case, without the language of RFC 2231 section 5
	text    []byte // decoded, in the charset
}

// decodeWords returns s with its encoded words decoded, in UTF-8. Blanks between words are none.
// Words that follow each other in the same charset are decoded together, because many programs cut
// text in the middle of a character.
func decodeWords(s string) (string, error) {
	var b strings.Builder
	var err error
	for range maxWords {
		at := strings.Index(s, "=?")
		if at < 0 {
			break
		}
		w, length := cutWord(s[at:])
		if length == 0 {
			b.Write(plainText(s[:at+2]))
			s = s[at+2:]
			continue
		}
		b.Write(plainText(s[:at]))
		s = s[at:]
		end, skip := length, length // of the words of one charset, and of the blanks behind them
		for range maxWords {
			next := strings.TrimLeft(s[end:], blanks)
			more, length := cutWord(next)
			if length == 0 {
				break
			}
			if skip = len(s) - len(next); more.charset != w.charset {
				break
			}
			w.text = append(w.text, more.text...)
			end = skip + length
			skip = end
		}
		text, unknown := w.convert(s[:end])
		if err == nil {
			err = unknown
		}
		b.WriteString(text)
		s = s[skip:]
	}
	b.Write(plainText(s))
	return b.String(), err
}

// maxGrowth is how many times longer a text can become in UTF-8: one byte of ISO-2022-JP's half-width
// characters and of Windows-1252 three, one of a broken text a replacement character.
const maxGrowth = 3

// plainText returns what stands between words in UTF-8.
func plainText(s string) []byte { return toUTF8("", []byte(s), maxGrowth*len(s)) }

// convert returns the text of w in UTF-8 or, with an error, raw if the charset is unknown.
func (w word) convert(raw string) (string, error) {
	switch w.charset {
	case "us-ascii", "utf-8", "utf8":
		return string(toUTF8("", w.text, maxGrowth*len(w.text))), nil
	}
	text, err := convert(w.charset, w.text, maxGrowth*len(w.text))
	if err != nil {
		return raw, fmt.Errorf("%w %q", errUnknownCharset, w.charset)
	}
	return string(text), nil
}

// cutWord reads the encoded word at the beginning of s. The length is 0 if there is none.
func cutWord(s string) (w word, length int) {
	rest, ok := strings.CutPrefix(s, "=?")
	if !ok {
		return word{}, 0
	}
	name, _, ok := strings.Cut(rest[:min(len(rest), maxCharset)], "?")
	if !ok || name == "" || strings.ContainsAny(name, blanks+"=") {
		return word{}, 0
	}
	rest = rest[len(name)+1:]
	if len(rest) < len("Q?") || rest[1] != '?' {
		return word{}, 0
	}
	// Section 2 forbids blanks in a word; programs put them into "Q" all the same.
	encoded, after, ok := strings.Cut(rest[2:], "?=")
	if !ok {
		return word{}, 0
	}
	name, _, _ = strings.Cut(strings.ToLower(name), "*")
	w = word{charset: name}
	switch rest[0] {
	case 'q', 'Q':
		w.text = appendUnquoted(nil, []byte(strings.ReplaceAll(encoded, "_", " ")), len(encoded))
	case 'b', 'B':
		w.text, _ = base64Decoded([]byte(encoded), len(encoded))
	default:
		return word{}, 0
	}
	return w, len(s) - len(after)
}
