package redaction

// finder finds many short strings in a text at once (Aho and Corasick's automaton, as one table). Letters count in any
// case, every digit as any other, and bytes of letters beyond ASCII as one another: what it finds is a little more than
// what is there, never less.
type finder struct {
	// A state is the place of its row, in which there is the next state for each symbol.
	next []uint32
	// Of a state, from `ending` on, who waits for a string that ends in it.
	waiting []set
	ending  uint32
}

const (
	symbols = 64

	// The symbols of small and capital letters begin with 1; 0 is what is rare.
	digit   = 27
	high    = 28
	space   = 29
	newline = 30
	others  = 31
)

// symbol of each byte.
var symbol = func() (table [256]uint8) {
	other := uint8(others)
	for letter := range 256 {
		switch {
		case letter >= 0x80:
			table[letter] = high
		case letter >= '0' && letter <= '9':
			table[letter] = digit
		case letter >= 'a' && letter <= 'z':
			table[letter] = uint8(letter-'a') + 1
		case letter >= 'A' && letter <= 'Z':
			table[letter] = uint8(letter-'A') + 1
		case letter > ' ':
			table[letter] = other
			other++
		case letter == ' ':
			table[letter] = space
		case letter == '\n':
			table[letter] = newline
		}
	}
	return table
}()

// newFinder finds the strings of each of a list; a set of these has so many words.
func newFinder(needed [][]string, words int) *finder {
	children := [][symbols]uint32{{}}
	waiting := []set{nil}
	for place, strings := range needed {
		for _, text := range strings {
			state := uint32(0)
			for at := range len(text) {
				letter := symbol[text[at]]
				if children[state][letter] == 0 {
					children[state][letter] = uint32(len(children))
					children = append(children, [symbols]uint32{})
					waiting = append(waiting, nil)
				}
				state = children[state][letter]
			}
			if waiting[state] == nil {
				waiting[state] = make(set, words)
			}
			waiting[state].add(place)
		}
	}
	order := link(children, waiting)
	return laid(children, waiting, order)
}

// link gives each state the ways of its longest end that is a state too, and returns the states, nearest first.
func link(children [][symbols]uint32, waiting []set) []uint32 {
	fallback := make([]uint32, len(children))
	order := []uint32{0}
	for at := 0; at < len(order); at++ {
		state := order[at]
		for letter, child := range children[state] {
			behind := uint32(0)
			if state != 0 {
				behind = children[fallback[state]][letter]
			}
			if child == 0 {
				children[state][letter] = behind
				continue
			}
			fallback[child] = behind
			if more := waiting[behind]; more != nil {
				if waiting[child] == nil {
					waiting[child] = make(set, len(more))
				}
				for word := range more {
					waiting[child][word] |= more[word]
				}
			}
			order = append(order, child)
		}
	}
	return order
}

// laid lays the states into one table: first those in which nothing ends, so that one comparison says which it is.
func laid(children [][symbols]uint32, waiting []set, order []uint32) *finder {
	made := &finder{next: make([]uint32, len(children)*symbols)}
	number := make([]uint32, len(children))
	given := uint32(0)
	for _, ends := range []bool{false, true} {
		if ends {
			made.ending = given * symbols
		}
		for _, state := range order {
			if (waiting[state] != nil) != ends {
				continue
			}
			number[state] = given
			given++
			if ends {
				made.waiting = append(made.waiting, waiting[state])
			}
		}
	}
	for state, ways := range children {
		for letter, child := range ways {
			made.next[number[state]*symbols+uint32(letter)] = number[child] * symbols
		}
	}
	return made
}

// find adds to a set who waits for a string of the text. It returns how many digits the text has, and whether it is ASCII.
func (f *finder) find(text string, found set) (digits int, ascii bool) {
	state, all, next, ending := uint32(0), byte(0), f.next, f.ending
	for at := range len(text) {
		letter := symbol[text[at]]
		all |= text[at]
		if letter == digit {
			digits++
		}
		state = next[state+uint32(letter)]
		if state >= ending {
			for word, more := range f.waiting[(state-ending)/symbols] {
				found[word] |= more
			}
		}
	}
	return digits, all < 0x80
}
