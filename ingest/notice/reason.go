package notice

import (
	"strings"

	"carom/ingest/dsn"
	"carom/ingest/phrase"
)

// maxReason is the number of bytes of a reason that are kept.
const maxReason = 2000

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

// reasonFor returns why delivery to the address at m failed; all are the addresses of the text,
// chosen are the recipients among them.
func (r *reader) reasonFor(all, chosen []mention, m mention) string {
	t := &r.text
	next := len(t.raw) // where the next recipient's part begins
	for _, other := range chosen {
		if begin := t.lines[other.line].start; begin > m.end && begin < next {
			next = begin
		}
	}
	start := m.end
	if begin := t.lines[m.line].start; m.start > begin {
		if at, ok := dsn.FindReply(t.low[begin:m.start], 0); ok { // "554 <ann@mail.example>... 550 Host unknown"
			start = begin + at
		}
	}
	block := strings.Trim(t.raw[start:t.paragraphEnd(m.line, next)], " :;,>*-\t")
	if replied(block) {
		return limit(block)
	}
	if line, ok := t.replyNaming(all, m.address); ok {
		return limit(line)
	}
	if at, ok := dsn.FindReply(t.low[:next], m.end); ok {
		return limit(t.raw[t.replyStart(at):t.paragraphEnd(t.lineAt(at), next)])
	}
	if said := t.behind(r.said[reply], m.start, next); said != "" {
		return limit(said)
	}
	if len(chosen) <= 1 { // what is said before or anywhere is said of it
		if said := t.behind(r.said[reply], 0, len(t.raw)); said != "" {
			return limit(said)
		}
		if at, ok := dsn.FindReply(t.low[:m.start], 0); ok {
			return limit(t.raw[t.replyStart(at):t.paragraphEnd(t.lineAt(at), len(t.raw))])
		}
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

// behind returns what stands behind the first label of a reason, between the positions from and next,
// that something stands behind: the rest of its paragraph, or else the next one.
func (t *text) behind(labels []find, from, next int) string {
	for _, f := range labels {
		if f.place != inText || f.end >= len(t.raw) || f.start < from || f.end > next {
			continue
		}
		n := t.lineAt(f.start)
		if said := strings.Trim(t.raw[f.end:max(f.end, t.paragraphEnd(n, next))], " :-=*\t"); substance(said) {
			return said
		}
		for n+1 < len(t.lines) && t.lines[n].end < f.end {
			n++
		}
		for n+1 < len(t.lines) && !t.lines[n+1].gap {
			n++
		}
		if n+1 < len(t.lines) {
			return t.raw[t.lines[n+1].start:t.paragraphEnd(n+1, len(t.raw))]
		}
	}
	return ""
}

// replied reports whether s holds what a server said.
func replied(s string) bool {
	_, ok := dsn.FindReply(s, 0)
	return ok || !dsn.FindEnhanced(s).IsZero()
}

// maxReplies is the number of places that are looked at for a reply that names an address.
const maxReplies = 20

// replyNaming returns the reply in a line that names address: "<<< 550 5.1.1 <ann@mail.example>..."
// in a transcript.
func (t *text) replyNaming(all []mention, address string) (reply string, ok bool) {
	looked := 0
	for _, m := range all {
		if !strings.EqualFold(m.address, address) {
			continue
		}
		if looked++; looked > maxReplies {
			break
		}
		l := t.lines[m.line]
		if at, ok := dsn.FindReply(t.low[:l.end], l.start); ok {
			return t.raw[at:l.end], true
		}
	}
	return "", false
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

// remoteMTA returns the host that a reason names as the one that answered, "" if it names none.
func remoteMTA(reason string) string {
	low := phrase.Lower(reason)
	for _, before := range []string{"while talking to ", "connect to ", "host: ", "host "} {
		_, name, found := strings.Cut(low, before)
		if !found {
			continue
		}
		end := 0
		for end < len(name) && isDomainByte(name[end]) {
			end++
		}
		name = strings.Trim(name[:end], ".-")
		if strings.Contains(name, ".") && !allDigits(name) {
			return name
		}
	}
	return ""
}
