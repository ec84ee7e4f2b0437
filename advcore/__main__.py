from advcore.cli import main

main()
