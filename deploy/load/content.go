package load

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

const (
	variants    = 8       // different bodies in a run
	minBody     = 400     // octets below which no newsletter is made
	maxBody     = 1 << 24 // 16 MiB, far under what servers take
	headerBytes = 700     // what the header takes of a message's size, about
	boundary    = "=_carom_newsletter"
)

// content makes newsletters: multipart/alternative, CRLF lines, no line that begins with a dot.
type content struct {
	o       *Options
	bodies  [variants]string
	subject [variants]string
}

func newContent(o *Options) (*content, error) {
	if o.SizeBytes < 0 || o.SizeBytes > maxBody {
		return nil, fmt.Errorf("size %d: want 0 to %d octets", o.SizeBytes, maxBody)
	}
	c := &content{o: o}
	size := max(minBody, o.SizeBytes-headerBytes)
	r := rand.New(rand.NewPCG(o.Scenario.Seed, 1))
	for i := range c.bodies {
		c.subject[i] = fmt.Sprintf("%s: %s", strings.Join(words(r, 2), " "), strings.Join(words(r, 5), " "))
		c.bodies[i] = body(r, size)
	}
	return c, nil
}

// message returns m as it goes on the wire, without the final dot.
func (c *content) message(m *message, now time.Time) string {
	i := m.index % variants
	var b strings.Builder
	b.Grow(len(c.bodies[i]) + headerBytes)
	field := func(name, value string) {
		b.WriteString(name)
		b.WriteString(": ")
		b.WriteString(value)
		b.WriteString("\r\n")
	}
	field("Date", now.Format(time.RFC1123Z))
	field("Message-ID", "<"+m.id+">")
	field("From", "The Newsletter <"+m.sender+">")
	field("To", "<"+m.recipient+">")
	field("Subject", c.subject[i])
	if c.o.Job != "" {
		field("X-Job", c.o.Job)
	}
	if c.o.TenantName != "" && m.tenant != "" {
		field(c.o.TenantName, m.tenant)
	}
	for _, line := range c.o.Headers {
		b.WriteString(line)
		b.WriteString("\r\n")
	}
	field("List-Unsubscribe", fmt.Sprintf("<https://%s/leave/%x>", c.o.FromDomain, m.index)) // RFC 2369
	field("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")                             // RFC 8058
	field("MIME-Version", "1.0")
	field("Content-Type", "multipart/alternative;\r\n boundary=\""+boundary+"\"")
	b.WriteString("\r\n")
	b.WriteString(c.bodies[i])
	return b.String()
}

// body makes the two parts of a newsletter, about size octets.
func body(r *rand.Rand, size int) string {
	var text, html strings.Builder
	for text.Len()+html.Len() < size-300 {
		line := strings.Join(words(r, 9), " ")
		text.WriteString(line + ".\r\n")
		html.WriteString("<p>" + line + ".</p>\r\n")
	}
	var b strings.Builder
	part := func(contentType, content string) {
		b.WriteString("--" + boundary + "\r\nContent-Type: " + contentType + "; charset=us-ascii\r\n\r\n" + content + "\r\n")
	}
	part("text/plain", text.String())
	part("text/html", "<html><body>\r\n"+html.String()+"</body></html>\r\n")
	b.WriteString("--" + boundary + "--\r\n")
	return b.String()
}

var vocabulary = strings.Fields(`
autumn basket candle delivery early favourite garden harvest invitation journey kitchen letter market
morning notebook offer orchard parcel quality recipe season table umbrella voucher weekend winter yellow
new warm simple fresh local quiet bright careful open gentle`)

func words(r *rand.Rand, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = vocabulary[r.IntN(len(vocabulary))]
	}
	return list
}
