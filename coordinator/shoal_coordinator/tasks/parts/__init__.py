"""What descriptions of tasks share with the scripts that train a part of them beforehand."""
