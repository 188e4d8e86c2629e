package notice

import (
	"slices"
	"strings"

	"carom/ingest/dsn"
)

// person is a recipient that a notice is about.
type person struct {
	address string
	reason  string
}

const (
	// reach is how far behind a phrase the address stands that it is about, in bytes; strangeReach
	// where the phrase says that it is not a recipient.
	reach        = 80
	strangeReach = 30
	// likely is the score of an address that is taken without looking for a better one.
	likely = 3
	// prominent is the standing of an address at the beginning of its line.
	prominent = 4
)

// recipients returns whom the notice is about: the addresses in the text that look most like it, or
// those of the header, or of the message that comes back. There is at least one person.
func (r *reader) recipients() []person {
	mentions := r.text.mentions()
	scores := r.scores(mentions)
	chosen := r.choose(mentions, scores)
	var people []person
	for _, m := range chosen {
		people = append(people, person{m.address, r.reasonFor(mentions, chosen, m)})
	}
	if len(people) == 0 {
		people = r.elsewhere(mentions, scores)
	}
	return people
}

// choose returns the addresses that score best, and those that stand as the best one does: a list.
// Of an address that is there several times it returns the most prominent mention.
func (r *reader) choose(mentions []mention, scores []int) []mention {
	best := -1
	for i, score := range scores {
		if score >= likely && (best < 0 || score > scores[best]) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	standing, indent := r.text.standing(mentions[best]), r.text.lines[mentions[best].line].indent
	var chosen []mention
	index := map[string]int{} // of an address in chosen
	for i, m := range mentions {
		listed := standing >= prominent && scores[i] >= prominent && r.text.standing(m) == standing && r.text.lines[m.line].indent == indent
		if !listed && scores[i] < max(likely, scores[best]-2) {
			continue
		}
		key := strings.ToLower(m.address)
		if _, again := index[key]; !again {
			index[key] = len(chosen)
			chosen = append(chosen, m)
		}
	}
	for _, m := range mentions {
		if at, ok := index[strings.ToLower(m.address)]; ok && r.text.standing(m) > r.text.standing(chosen[at]) {
			chosen[at] = m
		}
	}
	return chosen
}

// elsewhere returns the recipients where the text shows none well.
func (r *reader) elsewhere(mentions []mention, scores []int) []person {
	reason := r.anyReason()
	addresses := r.failedTo
	if len(addresses) == 0 {
		for i, m := range mentions {
			if scores[i] > 0 && (len(addresses) == 0 || scores[i] > 1) {
				addresses = append(addresses, m.address)
			}
		}
	}
	if len(addresses) == 0 {
		addresses = r.returnedTo()
	}
	if len(addresses) == 0 {
		addresses = only(mentions, scores)
	}
	if len(addresses) == 0 {
		return []person{{"", reason}}
	}
	var people []person
	for _, a := range addresses {
		if !slices.ContainsFunc(people, func(p person) bool { return strings.EqualFold(p.address, a) }) {
			people = append(people, person{a, reason})
		}
	}
	return people
}

// only returns the one address that nothing speaks against; none if there are several.
func only(mentions []mention, scores []int) []string {
	var addresses []string
	for i, m := range mentions {
		if scores[i] < 0 || len(addresses) > 0 && strings.EqualFold(addresses[0], m.address) {
			continue
		}
		if len(addresses) > 0 {
			return nil
		}
		addresses = append(addresses, m.address)
	}
	return addresses
}

// anyReason returns the reason that a text gives for nobody in particular.
func (r *reader) anyReason() string {
	t := &r.text
	if at, ok := dsn.FindReply(t.low, 0); ok {
		return limit(t.raw[t.replyStart(at):t.paragraphEnd(t.lineAt(at), len(t.raw))])
	}
	if said := t.behind(r.said[reply], 0, len(t.raw)); said != "" {
		return limit(said)
	}
	return limit(t.raw)
}

// maxReturnedTo is the number of recipients of the returned message up to which all of them are taken.
const maxReturnedTo = 5

// returnedTo returns whom the returned message was sent to, but for its own sender.
func (r *reader) returnedTo() []string {
	addresses := slices.DeleteFunc(addressesIn(strings.Join(r.original.Values("To"), ", ")), func(a string) bool { return holds(r.sender, a) })
	if len(addresses) > maxReturnedTo {
		return nil
	}
	return addresses
}

// scores says of each address how much it looks like a recipient's.
func (r *reader) scores(mentions []mention) []int {
	scores := make([]int, len(mentions))
	returnedTo := r.returnedTo()
	returnedFrom := addressesIn(r.original.Get("From") + ", " + r.original.Get("Return-Path"))
	for i, m := range mentions {
		scores[i] += r.text.standing(m)
		if holds(r.failedTo, m.address) {
			scores[i] += 4
		}
		if holds(returnedTo, m.address) {
			scores[i] += 2
		}
		if holds(r.sender, m.address) {
			scores[i] -= 4
		}
		if holds(returnedFrom, m.address) {
			scores[i] -= 3
		}
		if isRole(m.address) {
			scores[i] -= 2
		}
	}
	r.addLabels(scores, mentions, recipient, reach)
	r.addLabels(scores, mentions, stranger, strangeReach)
	return scores
}

// addLabels adds to the score of each address the weight of the phrase before it that says most.
func (r *reader) addLabels(scores []int, mentions []mention, says meaning, reach int) {
	most := map[int]int{}
	for _, f := range r.said[says] {
		if f.place != inText {
			continue
		}
		if f.end < len(r.text.low) && r.text.low[f.end] == ':' && r.text.lineAt(f.start) != r.text.lineAt(f.end-1) {
			continue // "Your message", and in the next line "To:"
		}
		i, _ := slices.BinarySearchFunc(mentions, f.end, func(m mention, end int) int { return m.start - end })
		if i < len(mentions) && mentions[i].start-f.end <= reach && abs(f.rule.weight) > abs(most[i]) {
			scores[i] += f.rule.weight - most[i]
			most[i] = f.rule.weight
		}
	}
}

func abs(n int) int { return max(n, -n) }

func holds(addresses []string, address string) bool {
	return slices.ContainsFunc(addresses, func(a string) bool { return strings.EqualFold(a, address) })
}

// isRole reports whether an address is one to ask for help.
func isRole(address string) bool {
	local, _, _ := strings.Cut(strings.ToLower(address), "@")
	switch local {
	case "postmaster", "mailer-daemon", "support", "abuse", "helpdesk", "hostmaster", "webmaster", "info", "noreply", "no-reply", "admin", "administrator":
		return true
	}
	return false
}

// standing says how prominent the place of an address is: alone on its line, at its beginning, at
// its end.
func (t *text) standing(m mention) int {
	l := t.lines[m.line]
	if m.start < l.start || m.end > l.end {
		return 0
	}
	before := strings.Trim(t.low[l.start:m.start], " <\"'*->[(:;.•·")
	after := strings.Trim(t.low[m.end:l.end], " >\"')];.,")
	if at, ok := dsn.FindReply(before, 0); ok && at == 0 && len(before) == 3 {
		before = ""
	}
	switch {
	case before == "" && (after == "" || after == ":"):
		return 5
	case before == "" && strings.HasPrefix(after, ":"), before == "" && strings.HasPrefix(after, "..."):
		return 5
	case before == "":
		return prominent
	case after == "" && !strings.Contains(before, "="):
		return 1
	}
	return 0
}
