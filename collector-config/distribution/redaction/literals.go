package redaction

import (
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// So many strings at most stand for a part of an expression, a class of so many letters, a string of so many bytes.
	mostStrings    = 64
	mostLetters    = 8
	longestLetters = 24
	widestRange    = 4096
)

// literals returns strings of which every match of the expression contains one, in the finder's sense; nil if unknown.
func literals(tree *syntax.Regexp) []string {
	found := analyse(tree)
	best := better(found.exact, found.within)
	if rarity(best) < 1 {
		return nil
	}
	for at, text := range best {
		best[at] = text[:min(len(text), longestLetters)]
	}
	return unique(best)
}

// part is what is known of a part of an expression: all strings that it matches, or some that each of its matches
// contains one of. nil is "not known".
type part struct{ exact, within []string }

var empty = part{exact: []string{""}}

func analyse(tree *syntax.Regexp) part {
	switch tree.Op {
	case syntax.OpNoMatch:
		return part{}
	case syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText,
		syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return empty
	case syntax.OpLiteral:
		return literal(tree)
	case syntax.OpCharClass:
		return class(tree)
	case syntax.OpCapture:
		return analyse(tree.Sub[0])
	case syntax.OpConcat:
		return sequence(tree.Sub)
	case syntax.OpAlternate:
		return choice(tree.Sub)
	case syntax.OpQuest:
		return repeated(tree.Sub[0], 0, 1)
	case syntax.OpPlus:
		return repeated(tree.Sub[0], 1, -1)
	case syntax.OpRepeat:
		return repeated(tree.Sub[0], tree.Min, tree.Max)
	}
	return part{}
}

func literal(tree *syntax.Regexp) part {
	fold := tree.Flags&syntax.FoldCase != 0
	for _, letter := range tree.Rune {
		if letter == utf8.RuneError || (fold && letter > unicode.MaxASCII) {
			return part{}
		}
	}
	return part{exact: []string{plain(string(tree.Rune))}}
}

func class(tree *syntax.Regexp) part {
	var found []string
	for at := 0; at < len(tree.Rune); at += 2 {
		low, high := tree.Rune[at], tree.Rune[at+1]
		if high-low > widestRange || (low <= utf8.RuneError && utf8.RuneError <= high) {
			return part{}
		}
		for letter := low; letter <= high; letter++ {
			found = append(found, plain(string(letter)))
		}
		if found = unique(found); len(found) > mostLetters {
			return part{}
		}
	}
	return part{exact: found}
}

func sequence(trees []*syntax.Regexp) part {
	together, whole := empty.exact, true
	var within []string
	for _, tree := range trees {
		found := analyse(tree)
		if more := product(together, found.exact); more != nil {
			together = more
			continue
		}
		within = better(better(within, together), found.within)
		together, whole = empty.exact, false
		if found.exact != nil {
			together = found.exact
		}
	}
	if whole {
		return part{exact: together}
	}
	return part{within: better(within, together)}
}

func choice(trees []*syntax.Regexp) part {
	whole := true
	var all []string
	for _, tree := range trees {
		found := analyse(tree)
		whole = whole && found.exact != nil
		one := better(found.exact, found.within)
		if one == nil {
			return part{}
		}
		all = append(all, one...)
	}
	if all = unique(all); whole && len(all) <= mostStrings {
		return part{exact: all}
	}
	return part{within: all}
}

func repeated(tree *syntax.Regexp, least, most int) part {
	found := analyse(tree)
	if found.exact == nil {
		if least == 0 {
			return part{}
		}
		return part{within: found.within}
	}
	at := empty.exact
	for range least {
		more := product(at, found.exact)
		if more == nil {
			return part{within: at}
		}
		at = more
	}
	all := at
	for times := least; times < most; times++ {
		at = product(at, found.exact)
		if at == nil || len(all)+len(at) > mostStrings {
			most = -1
			break
		}
		all = append(slices.Clone(all), at...)
	}
	if most == -1 {
		return part{within: all[:len(all):len(all)]}
	}
	return part{exact: unique(all)}
}

// least returns how many letters, and how many digits of these, every match has at least.
func least(tree *syntax.Regexp) (letters, digits int) {
	switch tree.Op {
	case syntax.OpLiteral:
		for _, letter := range tree.Rune {
			letters++
			if letter >= '0' && letter <= '9' {
				digits++
			}
		}
	case syntax.OpCharClass:
		letters = 1
		if count := len(tree.Rune); count > 0 && tree.Rune[0] >= '0' && tree.Rune[count-1] <= '9' {
			digits = 1
		}
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		letters = 1
	case syntax.OpCapture, syntax.OpPlus:
		return least(tree.Sub[0])
	case syntax.OpRepeat:
		letters, digits = least(tree.Sub[0])
		letters, digits = letters*tree.Min, digits*tree.Min
	case syntax.OpConcat:
		for _, below := range tree.Sub {
			more, numbers := least(below)
			letters, digits = letters+more, digits+numbers
		}
	case syntax.OpAlternate:
		letters, digits = least(tree.Sub[0])
		for _, below := range tree.Sub[1:] {
			more, numbers := least(below)
			letters, digits = min(letters, more), min(digits, numbers)
		}
	}
	return letters, digits
}

// never says whether nothing can match, because the text would have to begin behind a letter.
func never(tree *syntax.Regexp) bool {
	before := 0
	for _, below := range tree.Sub {
		if tree.Op == syntax.OpConcat && below.Op == syntax.OpBeginText && before > 0 {
			return true
		}
		letters, _ := least(below)
		before += letters
	}
	return false
}

// product is every string of the first with every one of the second behind it; nil where these are too many.
func product(first, second []string) []string {
	if first == nil || second == nil || len(first)*len(second) > mostStrings {
		return nil
	}
	all := make([]string, 0, len(first)*len(second))
	for _, beginning := range first {
		for _, end := range second {
			all = append(all, beginning+end)
		}
	}
	return unique(all)
}

// better is the one whose strings a text has more rarely.
func better(first, second []string) []string {
	one, other := rarity(first), rarity(second)
	if other > one || (other == one && len(second) < len(first)) {
		return second
	}
	return first
}

// rarity is that of the most frequent one.
func rarity(all []string) int {
	least := -1
	for _, text := range all {
		found := 0
		for _, letter := range text {
			switch {
			case strings.ContainsRune("0 ./_-:,\n", letter):
				found += 2
			case letter >= 'a' && letter <= 'z':
				found += 3
			default:
				found += 6
			}
		}
		if least < 0 || found < least {
			least = found
		}
	}
	return least
}

func unique(all []string) []string {
	slices.Sort(all)
	return slices.Compact(all)
}

// plain is the text with one letter for all that the finder takes for the same.
func plain(text string) string {
	return strings.Map(func(letter rune) rune {
		switch {
		case letter >= '0' && letter <= '9':
			return '0'
		case letter >= 'A' && letter <= 'Z':
			return letter - 'A' + 'a'
		case letter > unicode.MaxASCII:
			return [...]rune{0, 0, '\u0080', '\u0800', '\U00010000'}[utf8.RuneLen(letter)]
		}
		return letter
	}, text)
}
