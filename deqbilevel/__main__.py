"""python -m deqbilevel, see `deqbilevel.commands.console`."""

from deqbilevel.commands.console import main

if __name__ == "__main__":
    main()
