package notice

import (
	"strings"

	"carom/schemas/smtpstatus"
)

// maxReason is the number of bytes of a reason that are kept.
const maxReason = 2000

// replyIn returns the position of the first SMTP reply code of 4yz or 5yz in s from position from on.
func replyIn(s string, from int) (at int, ok bool) {
	for i := from; i+3 <= len(s); i++ {
		if s[i] != '4' && s[i] != '5' {
			continue
		}
		if isReply(s, i) {
			return i, true
		}
		for i+1 < len(s) && s[i+1] >= '0' && s[i+1] <= '9' {
			i++
		}
	}
	return 0, false
}

// isReply reports whether the three bytes of s at position i are a reply code with a text behind
// it: no part of a number, an address or a URL, and no count of something.
func isReply(s string, i int) bool {
	if s[i+1] < '0' || s[i+1] > '7' || s[i+2] < '0' || s[i+2] > '9' {
		return false
	}
	if i > 0 && strings.IndexByte(" (\"':>[-", s[i-1]) < 0 {
		return false
	}
	if i > 0 && s[i-1] == '-' && i > 1 && s[i-2] != '-' && s[i-2] != ' ' {
		return false
	}
	rest := s[i+3:]
	if rest == "" {
		return true
	}
	if strings.IndexByte(" -:,)\"'#.", rest[0]) < 0 || len(rest) > 1 && (rest[0] == '.' || rest[0] == ',' || rest[0] == ':') && rest[1] != ' ' {
		return false
	}
	word := strings.ToLower(strings.TrimLeft(rest, " "))
	for _, unit := range units {
		if strings.HasPrefix(word, unit) {
			return false
		}
	}
	return true
}

// units stand behind a number that counts something.
var units = []string{
	"bytes", "kb", "mb", "kilobytes", "megabytes", "seconds", "minutes", "hours", "days", "recipients", "messages", "lines", "characters", "times", "k ", "x ",
}

// enhancedIn returns the enhanced status code in s: the one behind the first reply code, or else the
// first that is there.
func enhancedIn(s string) smtpstatus.Enhanced {
	for from := 0; ; {
		at, ok := replyIn(s, from)
		if !ok {
			break
		}
		rest := strings.TrimLeft(s[at+3:], " -#(")
		if code, _ := codeAt(rest); !code.IsZero() && code.Class == uint16(s[at]-'0') {
			return code
		}
		from = at + 3
	}
	for i := range len(s) {
		if (s[i] == '5' || s[i] == '4' || s[i] == '2') && (i == 0 || strings.IndexByte(" #([\"':", s[i-1]) >= 0) {
			if code, _ := codeAt(s[i:]); !code.IsZero() {
				return code
			}
		}
	}
	return smtpstatus.Enhanced{}
}

// maxSubject is the last subject of RFC 3463 section 3: more is the number of a version.
const maxSubject = 7

// codeAt returns the enhanced status code at the beginning of s and its length.
func codeAt(s string) (code smtpstatus.Enhanced, length int) {
	for length < len(s) && length < len("5.999.999.") && (s[length] >= '0' && s[length] <= '9' || s[length] == '.') {
		length++
	}
	word := strings.TrimSuffix(s[:length], ".")
	code, _ = smtpstatus.ParseEnhanced(word)
	if code.Subject > maxSubject || length < len(s) && (s[length] == '-' && length+1 < len(s) && s[length+1] >= '0' && s[length+1] <= '9' || s[length] == '_') {
		return smtpstatus.Enhanced{}, 0
	}
	return code, len(word)
}

// substance reports whether s holds words.
func substance(s string) bool {
	letters := 0
	for i := range len(s) {
		if c := s[i]; c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80 {
			letters++
		}
	}
	return letters >= 4
}

// reasonFor returns why delivery to the address at m failed; next is where the next recipient's
// part begins.
func (r *reader) reasonFor(m mention, next int) string {
	t := &r.text
	start := m.end
	if begin := t.lines[m.line].start; start > begin {
		if at, ok := replyIn(t.low[begin:m.start], 0); ok { // "554 <ann@mail.example>... 550 Host unknown"
			start = begin + at
		}
	}
	block := strings.Trim(t.raw[start:t.paragraphEnd(m.line, next)], " :;,>*-\t")
	if _, ok := replyIn(block, 0); ok {
		return limit(block)
	}
	if at, ok := replyIn(t.low, min(m.end, len(t.low))); ok && at < next {
		return limit(t.raw[t.replyStart(at):t.paragraphEnd(t.lineAt(at), next)])
	}
	for _, f := range r.said[reply] {
		if f.place == inText && f.end < len(t.raw) {
			return limit(strings.Trim(t.raw[f.end:t.paragraphEnd(t.lineAt(min(f.end+1, len(t.raw)-1)), next)], " :-"))
		}
	}
	if at, ok := replyIn(t.low, 0); ok && at < m.start {
		return limit(t.raw[t.replyStart(at):t.paragraphEnd(t.lineAt(at), max(next, at))])
	}
	if !substance(block) && m.line+1 < len(t.lines) && t.lines[m.line+1].start < next { // the next paragraph
		block = strings.TrimSpace(t.raw[t.lines[m.line+1].start:t.paragraphEnd(m.line+1, next)])
	}
	if line := t.lines[m.line]; !substance(block) || line.start < m.start && substance(t.raw[line.start:m.start]) {
		block = strings.TrimSpace(t.raw[t.paragraphStart(m.line):m.start] + " " + block)
	}
	if !substance(block) && m.line > 0 {
		block = t.raw[t.paragraphStart(m.line-1):m.start]
	}
	return limit(block)
}

// replyStart returns where the statement begins that holds the reply at position at: its line.
func (t *text) replyStart(at int) int {
	return t.lines[t.lineAt(at)].start
}

// paragraphEnd returns the end of the paragraph of line n, not behind position next.
func (t *text) paragraphEnd(n, next int) int {
	end := t.lines[n].end
	for n+1 < len(t.lines) && !t.lines[n+1].gap && t.lines[n+1].start < next {
		n++
		end = t.lines[n].end
	}
	return end
}

// paragraphStart returns the beginning of the paragraph of line n.
func (t *text) paragraphStart(n int) int {
	for n > 0 && !t.lines[n].gap {
		n--
	}
	return t.lines[n].start
}

func limit(s string) string {
	if len(s) > maxReason {
		s = s[:maxReason]
	}
	return strings.TrimSpace(s)
}
