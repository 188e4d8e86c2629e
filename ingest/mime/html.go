package mime

import (
	"bytes"
	"slices"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

const (
	// maxPage is how much of an HTML page is read, in bytes. Reports are below 100 KB.
	maxPage = 1 << 20
	// maxTag bounds a tag and a run of text, in bytes. A page with a longer tag ends there, or nearly.
	maxTag = 256 << 10
)

// lineTags are the elements before and behind which a browser begins a new line.
var lineTags = []atom.Atom{
	atom.Br, atom.P, atom.Div, atom.Tr, atom.Table, atom.Li, atom.Ul, atom.Ol, atom.Pre, atom.Hr, atom.Blockquote,
	atom.H1, atom.H2, atom.H3, atom.H4, atom.H5, atom.H6, atom.Dd, atom.Dt, atom.Body,
}

// textOfHTML returns the text of a page: without tags, comments, styles and scripts, with a line
// end where a browser begins a new line and one blank where there are several.
func textOfHTML(page []byte) string {
	z := html.NewTokenizer(bytes.NewReader(page[:min(len(page), maxPage)]))
	z.SetMaxBuf(maxTag)
	var text []byte
	hidden := atom.Atom(0) // the element whose text nobody sees
	for {
		kind := z.Next()
		switch kind {
		case html.ErrorToken:
			return string(bytes.TrimSpace(text))
		case html.TextToken:
			if hidden == 0 {
				text = appendWords(text, z.Text())
			}
		case html.StartTagToken, html.SelfClosingTagToken, html.EndTagToken:
			name, _ := z.TagName()
			tag := atom.Lookup(name)
			switch {
			case slices.Contains(lineTags, tag):
				text = endLine(text)
			case tag == atom.Td || tag == atom.Th:
				text = appendWords(text, []byte{' '})
			case kind == html.EndTagToken && tag == hidden:
				hidden = 0
			case kind == html.StartTagToken && (tag == atom.Style || tag == atom.Script || tag == atom.Title):
				hidden = tag
			}
		case html.CommentToken, html.DoctypeToken:
		}
	}
}

// endLine ends the last line of text, unless it is empty.
func endLine(text []byte) []byte {
	text = bytes.TrimRight(text, " ")
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	return text
}

// appendWords appends words to text with one blank between them, and one before and behind where
// there are some.
func appendWords(text, words []byte) []byte {
	const blanks = " \t\r\n\f\u00a0"
	for len(words) > 0 {
		end := bytes.IndexAny(words, blanks)
		if end != 0 {
			if end < 0 {
				end = len(words)
			}
			text = append(text, words[:end]...)
			words = words[end:]
			continue
		}
		words = bytes.TrimLeft(words, blanks)
		if len(text) > 0 && text[len(text)-1] != ' ' && text[len(text)-1] != '\n' {
			text = append(text, ' ')
		}
	}
	return text
}
